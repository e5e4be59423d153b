"""Options: an object that exists can be run, and nothing shows its secrets."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch._config.options import Options, settings
from bulkfetch._config.setting import (
    Secret,
    parse_bytes,
    parse_count,
    parse_max_errors,
    parse_number,
    parse_rate,
    parse_seconds,
    parse_switch,
)
from bulkfetch._domain.errors import BulkfetchError, ConfigurationError

URL = "https://acme.example/api/v2/soap/2.0"
TOKEN = "p-1sJDjmULL5DdpXPJTcbm4jVIaWVHvNmrjAxATRbNE"


def options(**changes):
    return Options(**{"endpoint": URL, "token": TOKEN, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint": ""}, ["endpoint is ''", "write it like https://"]),
        ({"endpoint": "acme.example"}, ["endpoint is 'acme.example'", "write it like https://"]),
        ({"endpoint": "ftp://acme.example"}, ["endpoint is 'ftp://acme.example'"]),
        ({"endpoint": "https://"}, ["endpoint is 'https://'"]),
        ({"endpoint": "https://[::1"}, ["endpoint is 'https://[::1'", "not a URL"]),
        ({"endpoint": "https://acme.example:x"}, ["endpoint is", "not a URL"]),
        ({"endpoint": "http://acme.example"}, ["endpoint is", "unencrypted", "--allow-http"]),
        ({"endpoint": "http://10.0.0.1"}, ["endpoint is", "unencrypted"]),
        ({"endpoint": "http://127.0.0.1.example"}, ["endpoint is", "unencrypted"]),
        ({"endpoint": None}, ["endpoint is None", "it must be text"]),
        ({"token_url": "acme", "token": None}, ["token_url is 'acme'"]),
        ({"proxy": "proxy:3128"}, ["proxy is 'proxy:3128'", "write it like"]),
        ({"concurrency": 0}, ["concurrency is 0", "the least is 1"]),
        ({"concurrency": "8"}, ["concurrency is '8'", "whole number"]),
        ({"concurrency": 2.5}, ["concurrency is 2.5", "whole number"]),
        ({"concurrency": None}, ["concurrency is None", "whole number"]),
        ({"allow_http": "no"}, ["allow_http is 'no'", "true or false"]),
        ({"concurrency": True}, ["concurrency is True", "whole number"]),
        ({"token_file": 3}, ["token_file is 3", "it must be a path"]),
        ({"rate": "fast"}, ["rate: 'fast' is not a rate", "write it like 20/s"]),
        ({"retry_faults": 3}, ["retry_faults is 3", "texts"]),
        ({"retry_faults": ["busy", 3]}, ["retry_faults is 3", "text"]),
        ({"retry_faults": ["x"] * 1001}, ["retry_faults holds 1,001 texts", "1,000"]),
        ({"token": None, "token_command": ""}, ["token_command has 0 characters"]),
        ({"retries": -1}, ["retries is -1", "the least is 0"]),
        ({"min_throughput": -1}, ["min_throughput is -1"]),
        ({"backoff": -0.5}, ["backoff is -0.5"]),
        ({"max_backoff": -1.0}, ["max_backoff is -1.0"]),
        ({"max_retry_after": -1.0}, ["max_retry_after is -1.0"]),
        ({"breaker": -1}, ["breaker is -1"]),
        ({"patience": -1.0}, ["patience is -1.0"]),
        ({"refusals": 0}, ["refusals is 0", "the least is 1"]),
        ({"grace": -1.0}, ["grace is -1.0"]),
        ({"limit": -1}, ["limit is -1"]),
        ({"max_bytes": 0}, ["max_bytes is 0"]),
        ({"max_rows": 0}, ["max_rows is 0"]),
        ({"max_row_bytes": 1023}, ["max_row_bytes is 1023", "the least is 1024"]),
        ({"max_ratio": 0}, ["max_ratio is 0"]),
        ({"rate": 0.0}, ["rate is 0.0", "the least is 0.0001"]),
        ({"rate": float("nan")}, ["rate is nan", "it must be a number"]),
        ({"timeout": 0.0}, ["timeout is 0.0"]),
        ({"connect_timeout": -1.0}, ["connect_timeout is -1.0"]),
        ({"read_timeout": 0.0}, ["read_timeout is 0.0"]),
        ({"max_duration": 0.0}, ["max_duration is 0.0"]),
        ({"retry_budget": 0.0}, ["retry_budget is 0.0"]),
        ({"backoff": float("nan")}, ["backoff is nan", "it must be a number"]),
        ({"max_errors": "many"}, ["max_errors: 'many'", "write it like 50 or 5%"]),
        ({"namespaces": "ftp"}, ["namespaces is 'ftp'", "auto, http, https"]),
        ({"durability": "some"}, ["durability is 'some'", "batch, course, none"]),
        ({"max_errors": -1}, ["max_errors: '-1'", "write it like 50 or 5%"]),
        ({"max_errors": "101%"}, ["max_errors: '101%'", "write it like 50 or 5%"]),
        ({"max_errors": 0.05}, ["max_errors is 0.05", "a number or a percentage"]),
        ({"shard": "3/3"}, ["shard: 3/3 is no shard", "the last is 2/3"]),
        ({"shard": "0/0"}, ["shard: 0/0 is no shard", "1 to 10,000"]),
        ({"shard": (0, 10_001)}, ["shard: 0/10001 is no shard", "1 to 10,000"]),
        ({"shard": (-1, 3)}, ["shard: -1/3 is no shard", "from 0"]),
        ({"shard": "a/b"}, ["shard: 'a/b' is not a shard", "0/8"]),
        ({"shard": "-1/3"}, ["shard: '-1/3' is not a shard"]),
        ({"shard": "1"}, ["shard: '1' is not a shard"]),
        ({"shard": ""}, ["shard: '' is not a shard"]),
        ({"shard": "1/2/3"}, ["shard: '1/2/3' is not a shard"]),
        ({"shard": (0.0, 2)}, ["shard: (0.0, 2) is not a shard"]),
        ({"shard": (False, 2)}, ["shard: (False, 2) is not a shard"]),
        ({"shard": 5}, ["shard: 5 is not a shard"]),
        ({"key": "a.pem"}, ["key is 'a.pem'", "set cert too"]),
        ({"token": "two words"}, ["token holds blanks", "one line, the token itself"]),
        ({"token": "two\nlines"}, ["token holds blanks, line breaks"]),
        ({"token": "a\x1bb"}, ["token holds", "control characters"]),
        ({"token_file": "t"}, ["token and token_file are set", "choose one"]),
        ({"token_command": "t", "token_url": URL}, ["token and token_command and token_url"]),
        ({"token": None, "token_url": URL}, ["client_id and client_secret", "BULKFETCH_CLIENT_ID"]),
        ({"token": None, "token_url": URL, "client_id": "me"}, ["client_secret"]),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_value(changes, words):
    """A wrong setting raises ConfigurationError that names field, value and remedy."""
    with pytest.raises(ConfigurationError) as caught:
        options(**changes)
    for word in words:
        assert word in str(caught.value)
    assert isinstance(caught.value, BulkfetchError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "http://localhost:8080/soap"},
        {"endpoint": "http://127.0.0.1:1/"},
        {"endpoint": "http://[::1]:1/"},
        {"endpoint": "http://acme.example", "allow_http": True},
        {"proxy": "http://proxy.example:3128"},
        {"token": None, "token_file": "token.txt"},
        {"token": None, "token_command": "pass show lms"},
        {"token": None, "token_url": URL, "client_id": "me", "client_secret": "s"},
        {"token": None},
        {"cert": "c.pem", "key": "k.pem"},
        {"max_errors": "5%"},
        {"rate": 20, "timeout": 5, "limit": 0, "breaker": 0, "retries": 0},
        {"max_errors": "5"},
        {"concurrency": 10_000, "rate": 100_000, "timeout": 604_800},
    ],
)
def test_a_sound_setting_is_taken(changes):
    """What the documentation allows is not refused."""
    made = options(**changes)
    for name, value in changes.items():
        shown = getattr(made, name)
        assert value in (shown, str(shown), shown.reveal() if isinstance(shown, Secret) else shown)


def test_text_forms_are_brought_to_their_types():
    """Paths, secrets and lists of fault texts may be given in their plain forms."""
    made = options(token=None, token_file="t", cacert="c", retry_faults="busy", auth_faults=["a"])
    assert (made.token_file, made.cacert) == (Path("t"), Path("c"))
    assert made.retry_faults == ("busy",), "one text is one text, not its letters"
    assert made.auth_faults == ("a",)
    assert options(token="").token is None, "an empty environment variable is no token"
    assert options(token=Secret("t")).token == Secret("t")
    assert (options(rate="600/m").rate, options(max_errors=5).max_errors) == (10.0, "5")


@pytest.mark.parametrize("shard", ["7/8", " 7 / 8 ", (7, 8), [7, 8]])
def test_a_shard_may_be_given_as_text_or_as_two_numbers(shard):
    """It counts from 0; the last of 10,000 is the largest there is."""
    assert options(shard=shard).shard == (7, 8)
    assert options(shard="9999/10000").shard == (9_999, 10_000)
    assert options(shard="0/1").shard == (0, 1)


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [(URL, "acme.example"), ("https://acme.example:8443/x", "acme.example:8443")],
)
def test_the_host_is_the_endpoints(endpoint, host):
    """`host` shows where requests go, without path."""
    assert options(endpoint=endpoint).host == host


@pytest.mark.parametrize("name", ["endpoint", "token_url"])
@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@acme.example",
        "https://hunter2@acme.example",
        "ftp://me:hunter2@acme.example",
        "https://me:hunter2@[::1",
        "https://me:hunt?er2@acme.example",
        "me:hunter2@acme.example",
    ],
)
def test_a_password_in_a_url_is_refused_unseen(name, url):
    """A URL with a user name or password is refused by a message that does not show it."""
    with pytest.raises(ConfigurationError, match=f"{name} holds a user name") as caught:
        options(**{"token": None, name: url})
    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "bare", "user", "password"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", "", None),
        ("http://me@proxy.example:3128", "http://me@proxy.example:3128", "me", None),
        ("http://me:hunter2@proxy.example", "http://me@proxy.example", "me", Secret("hunter2")),
        (
            "http://a%40b:hu%3Ant@proxy.example/",
            "http://a%40b@proxy.example/",
            "a@b",
            Secret("hu:nt"),
        ),
        ("https://:hunter2@[::1]:8080", "https://@[::1]:8080", "", Secret("hunter2")),
    ],
)
def test_a_proxys_password_is_taken_out_of_its_url(url, bare, user, password):
    """What is shown holds no password; who asks the proxy is known all the same."""
    made = options(proxy=url)
    assert (made.proxy, made.proxy_user, made.proxy_password) == (bare, user, password)
    assert "hu" not in repr(made)


def test_a_proxys_password_of_its_own_counts():
    """The setting made for it is nearer than the URL."""
    made = options(proxy="http://me:old@proxy.example", proxy_password="new")
    assert (made.proxy, made.proxy_password) == ("http://me@proxy.example", Secret("new"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("socks5://proxy.example:1080", "only HTTP proxies are supported"),
        ("socks5h://me:hunter2@proxy.example", "only HTTP proxies are supported"),
        ("SOCKS4://proxy.example", "only HTTP proxies are supported"),
        ("ftp://me:hunter2@proxy.example", "not like http://NAME@HOST:PORT"),
        ("me:hunter2@proxy.example", "not like http://NAME@HOST:PORT"),
        ("http://me:hunt?er2@proxy.example", "not like http://NAME@HOST:PORT"),
        ("http://me:hunt/er2@proxy.example", "not like http://NAME@HOST:PORT"),
        ("http://me:hunter2@[::1", "not a URL"),
        ("proxy.example:3128", "write it like http://HOST:PORT"),
    ],
)
def test_a_proxy_that_is_none(url, words):
    """What is supported is said, and a password never shown."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        options(proxy=url)
    assert "hunt" not in str(caught.value)


def test_the_environment_changes_nothing(monkeypatch):
    """Options come from their arguments alone."""
    before = options()
    for name, value in {
        "BULKFETCH_ENDPOINT": "https://other.example",
        "BULKFETCH_CONCURRENCY": "99",
        "BULKFETCH_TOKEN": "other",
        "HTTPS_PROXY": "http://proxy.example",
        "TZ": "Asia/Tokyo",
    }.items():
        monkeypatch.setenv(name, value)
    assert options() == before


def test_options_are_frozen():
    """A run's settings do not change while it runs."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().concurrency = 9


# Secrets


SHOWN = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "f-string": lambda value: f"{value} {value!r} {value!s} {value!a}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 - a form of showing
    "list": lambda value: repr([value]),
    "dict": lambda value: repr({"token": value}),
    "bytes": lambda value: str(repr(value).encode()),
    "dir": lambda value: str(dir(value)),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize("holder", ["secret", "options"])
def test_f86_a_secret_is_shown_by_nothing(show, holder):
    """No way of printing a secret, or the options around it, shows it."""
    secret = Secret(TOKEN)
    held = secret if holder == "secret" else options(token=secret, client_secret=TOKEN)
    assert TOKEN not in show(held)


def test_f86_a_secret_is_not_in_a_traceback_with_locals():
    """A traceback that prints local variables does not show it."""
    token = Secret(TOKEN)
    try:
        options(token=token, concurrency=0)
    except ConfigurationError as error:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join(report.format())
    assert "Secret(***)" in text
    assert TOKEN not in text


@pytest.mark.parametrize("value", [b"p-1sJ", 12345])
def test_f86_a_token_of_a_wrong_type_is_refused_unseen(value):
    """The message about a token that is no text does not show it."""
    with pytest.raises(ConfigurationError, match="token is <class") as caught:
        options(token=value)
    assert "p-1sJ" not in str(caught.value)
    assert "12345" not in str(caught.value)


def test_f86_a_secret_is_not_carried_off():
    """Pickling a secret is refused: cluster traffic is pickle. A copy of it is the secret."""
    for value in (Secret(TOKEN), options()):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(value)
    secret = Secret(TOKEN)
    assert copy.copy(secret) is copy.deepcopy(secret) is secret


def test_f86_replaced_options_keep_the_secret_masked():
    """`dataclasses.replace` works, and its result shows as little."""
    changed = dataclasses.replace(options(), concurrency=3)
    assert changed.concurrency == 3
    assert changed.token == Secret(TOKEN)
    assert TOKEN not in repr(changed)


def test_a_secret_is_compared_by_value_and_revealed_on_request():
    """Equal secrets are equal, also as keys; plain text is not a secret."""
    assert Secret(TOKEN).reveal() == TOKEN
    assert Secret(TOKEN) == Secret(Secret(TOKEN))
    assert len({Secret(TOKEN), Secret(TOKEN), Secret("other")}) == 2
    assert Secret(TOKEN) != TOKEN
    assert not Secret("")
    assert Secret("x")


# Text forms


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_switch, " Yes ", True),
        (parse_switch, "1", True),
        (parse_switch, "on", True),
        (parse_switch, "FALSE", False),
        (parse_switch, "", False),
        (parse_rate, "20/s", 20.0),
        (parse_rate, "600/m", 10.0),
        (parse_rate, "600 / min", 10.0),
        (parse_rate, "3600/h", 1.0),
        (parse_rate, " 0.5 ", 0.5),
        (parse_seconds, "90", 90.0),
        (parse_seconds, "1.5s", 1.5),
        (parse_seconds, "15m", 900.0),
        (parse_seconds, "15 min", 900.0),
        (parse_seconds, "2h", 7200.0),
        (parse_bytes, "1048576", 1 << 20),
        (parse_bytes, "64K", 64 << 10),
        (parse_bytes, "16 mib", 16 << 20),
        (parse_bytes, "4GB", 4 << 30),
        (parse_max_errors, " 50 ", "50"),
        (parse_max_errors, "2.5%", "2.5%"),
    ],
)
def test_a_text_form_is_read(parse, text, value):
    """The forms that help and README show are read as they say."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "texts", "words"),
    [
        (parse_switch, ["maybe", "2"], "neither yes nor no"),
        (parse_rate, ["0/s", "0.0", "-1/s", "fast", "20/d", "", "1e3"], "write it like 20/s"),
        (parse_seconds, ["-1", "soon", "", "1d", "nan", "inf"], "write it like 90"),
        (parse_bytes, ["-1", "1.5K", "", "4T"], "write it like 65536"),
        (parse_count, ["1.5", "", "many", "1_0", "\u0663"], "is not a whole number"),
        (parse_number, ["", "many"], "is not a number"),
        (parse_max_errors, ["-1", "%", "5 %%", "1.5", ""], "write it like 50 or 5%"),
    ],
)
def test_another_text_form_is_refused_with_an_example(parse, texts, words):
    """What cannot be read raises ValueError with the text and a good example."""
    for text in texts:
        with pytest.raises(ValueError, match=words) as caught:
            parse(text)
        assert repr(text) in str(caught.value)


@pytest.mark.parametrize("parse", [parse_bytes, parse_count, parse_max_errors])
def test_f130_endless_digits_are_refused_in_a_few_words(parse):
    """Python reads no whole number of more than 4,300 digits, and says so in its own words."""
    with pytest.raises(ValueError, match=r"'9999.*…") as caught:
        parse("9" * 5000)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=12), st.sampled_from([parse_rate, parse_seconds, parse_bytes]))
def test_any_text_is_a_number_or_a_value_error(text, parse):
    """No text makes a parser raise anything but ValueError, or return a negative."""
    try:
        assert parse(text) >= 0
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017 - which of the two happens is not known


# Bounds


NUMBERS = {
    name: item
    for name, item in settings().items()
    if item.parse in {parse_bytes, parse_count, parse_number, parse_rate, parse_seconds}
}
ABSURD = [float("inf"), -float("inf"), float("nan"), 10**400, -(10**400), 10**5000]


@pytest.mark.parametrize("name", NUMBERS)
def test_f130_a_number_has_a_least_and_a_most_that_say_why(name):
    """The bounds are taken, what lies beyond is refused with the bound and the reason."""
    item = NUMBERS[name]
    assert item.why, name
    assert item.bounds, name
    for bound, beyond, word in (
        (item.least, item.least - 1, "least"),
        (item.most, 2 * item.most, "most"),
    ):
        assert getattr(options(**{name: bound}), name) == bound
        with pytest.raises(ConfigurationError, match=f"{name} is .*: the {word} is") as caught:
            options(**{name: beyond})
        assert item.why in str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ABSURD, ids=["inf", "-inf", "nan", "huge", "-huge", "endless"])
def test_f130_an_absurd_number_is_refused_in_a_few_words(name, value):
    """No number makes a run of its own kind, or a message that fills the screen."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        options(**{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", [n for n, item in settings().items() if item.is_text and not item.choices]
)
@pytest.mark.parametrize(
    ("text", "word"),
    [("a\udcff", "no UTF-8"), ("a\0b", "a zero byte"), ("x" * 65_537, "65,537 characters")],
)
def test_f117_a_text_that_no_journal_can_hold_is_refused(name, text, word):
    """Bytes that are no UTF-8, zero bytes and endless texts; a secret is not shown."""
    if name in {"endpoint", "token_url", "proxy"}:
        text = f"https://acme.example/{text[:65_516]}"
        word = "characters" if "x" * 65_516 in text else word
    alone = {"token": None, "cert": "c", "client_id": "me", "client_secret": "s", name: text}
    with pytest.raises(ConfigurationError, match=rf"{name} .*{word}") as caught:
        options(**alone)
    assert len(str(caught.value)) < 300
    if settings()[name].parse is Secret:
        assert text not in str(caught.value)


# Settings, each defined once


def test_every_field_is_a_documented_setting():
    """Each field has a help sentence, a group and a placeholder for the README's table."""
    table = settings()
    assert list(table) == [field.name for field in dataclasses.fields(Options)]
    for setting in table.values():
        assert setting.help.endswith(".")
        assert setting.group
        assert setting.metavar


def test_help_of_options_tells_of_every_setting():
    """`help(bulkfetch.Options)` has each field with unit, bounds, default and meaning."""
    text = " ".join(Options.__doc__.split())
    for name, setting in settings().items():
        assert f" {name} " in text
        assert setting.help in text
        assert setting.bounds in text
    assert "timeout (seconds, 0.001 to 604800, default 300) Longest time for one" in text
    assert "durability (one of batch, course, none, default batch) When data" in text


def test_no_secret_may_stand_on_a_command_line():
    """Settings that hold secrets are no flags, and are masked while they are read."""
    hidden = {name for name, setting in settings().items() if not setting.flag}
    assert hidden == {"token", "client_secret", "proxy_password"}
    for name in hidden:
        assert isinstance(settings()[name].parse("x"), Secret)


def test_every_default_passes_its_own_reader():
    """The default of each number and switch, written as text, is read back as itself."""
    defaults = Options(endpoint=URL)
    for name, setting in settings().items():
        value = getattr(defaults, name)
        if isinstance(value, bool):
            assert setting.is_switch, name
            assert setting.parse(str(value)) is value
        elif isinstance(value, int | float):
            assert not setting.is_switch, name
            assert setting.parse(str(value)) == value, name
