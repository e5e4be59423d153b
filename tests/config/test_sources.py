"""Where settings come from, which one wins, and what is refused."""

from __future__ import annotations

import re
import tomllib

import pytest

from bulkfetch import ConfigurationError, Options, Secret
from bulkfetch._config.options import settings
from bulkfetch._config.sources import choose, default_text, make_options, shown, strangers, template

ENDPOINT = "https://acme.example/api"


def chosen(flags=None, environment=None, config=None):
    return choose(flags or {}, environment=environment or {}, config=config)


def write(tmp_path, text, mode=0o600):
    path = tmp_path / "bulkfetch.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_nearest_source_wins_and_is_remembered(tmp_path):
    """A flag comes before a variable, that before the file, that before the default."""
    config = write(tmp_path, 'rate = "1/s"\nconcurrency = 2\nretries = 3\n')
    environment = {"BULKFETCH_RATE": "2/s", "BULKFETCH_CONCURRENCY": "5"}
    found = chosen({"rate": "3/s", "timeout": None}, environment, config)
    assert (found["rate"].value, found["rate"].source) == (3.0, "--rate")
    assert (found["concurrency"].value, found["concurrency"].source) == (5, "BULKFETCH_CONCURRENCY")
    assert (found["retries"].value, found["retries"].source) == (3, config)
    assert (found["timeout"].value, found["timeout"].source) == (300.0, "default")


TEXTS = {
    "endpoint": ("https://a.example/x", "https://a.example/x"),
    "token": ("abc", Secret("abc")),
    "concurrency": ("12", 12),
    "rate": ("600/m", 10.0),
    "adaptive": ("no", False),
    "ordered": ("yes", True),
    "timeout": ("2m", 120.0),
    "min_throughput": ("4K", 4096),
    "retry_budget": ("0.5", 0.5),
    "max_errors": ("5%", "5%"),
    "max_duration": ("1h", 3600.0),
    "retry_faults": ("Busy; Try later", ("Busy", "Try later")),
    "durability": ("course", "course"),
    "shard": ("3/8", (3, 8)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_environment_speaks_the_same_text_as_flags(name):
    """A variable is read as the setting's own parser says."""
    text, value = TEXTS[name]
    assert chosen(environment={f"BULKFETCH_{name.upper()}": text})[name].value == value


@pytest.mark.parametrize("name", settings())
def test_every_setting_has_a_variable_and_a_key(name, tmp_path):
    """No setting is left out of environment and file; secrets too."""
    text = {"limit": "1", "max_errors": "1", "rate": "1", "max_duration": "1"}.get(name)
    text = text or {"shard": "0/1"}.get(name) or default_text(name) or "1"
    assert chosen(environment={f"BULKFETCH_{name.upper()}": text})[name].source != "default"
    config = write(tmp_path, f'{name} = "{text}"\n')
    assert chosen(config=config)[name].source == config


def test_an_empty_variable_is_no_value():
    """Containers often hand over empty variables for what is not set."""
    assert chosen(environment={"BULKFETCH_RATE": ""})["rate"].source == "default"


@pytest.mark.parametrize("name", ["endpoint", "token"])
def test_blanks_around_a_variable_are_left_out(name):
    """What was copied with its line break is what it is without."""
    found = chosen(environment={f"BULKFETCH_{name.upper()}": " https://a.example/b \n"})
    value = found[name].value
    assert (value.reveal() if name == "token" else value) == "https://a.example/b"


def test_toml_values_may_have_their_own_type(tmp_path):
    """Numbers, switches and lists need no quotes; dashes are as good as underscores."""
    config = write(
        tmp_path, 'rate = 0.5\nordered = true\nmax-errors = 50\nretry-faults = ["a", "b"]\n'
    )
    found = chosen(config=config)
    values = [found[name].value for name in ("rate", "ordered", "max_errors", "retry_faults")]
    assert values == [0.5, True, "50", ("a", "b")]


WRONG_FILES = {
    "unknown key": ("concurency = 3\n", "'concurency' is no setting: did you mean concurrency"),
    "table": ("[pace]\nrate = 1\n", "'pace' is no setting"),
    "not TOML": ("rate = \n", "not TOML"),
    "not UTF-8": (b"\xff\xfe", "not TOML"),
    "wrong value": ('rate = "fast"\n', r"bulkfetch\.toml, rate: 'fast' is not a rate"),
    "wrong type": ("rate = true\n", "rate: True is not one text or number"),
    "list for one": ("rate = [1]\n", "rate: .* is not one text or number"),
    "endless number": ("concurrency = " + "9" * 5000, "not TOML"),
    "endless hex": ("concurrency = 0x" + "f" * 9000, "thousands of digits' is not a whole"),
    "endless brackets": ("rate = " + "[" * 50_000, "not TOML"),
    "not whole": ("concurrency = 1.5\n", "concurrency: '1.5' is not a whole number"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_named_with_what_is_wrong(text, message, tmp_path):
    """The message names file, key and value."""
    config = write(tmp_path, "")
    (tmp_path / "bulkfetch.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=message):
        chosen(config=config)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    """Editors on Windows write one, and mean nothing by it."""
    config = write(tmp_path, "\ufeffrate = 2\n")
    assert chosen(config=config)["rate"].value == 2.0


def test_a_missing_file_is_named(tmp_path):
    """A configuration that was asked for and is not there is an error."""
    with pytest.raises(ConfigurationError, match=r"no\.toml cannot be read: No such file"):
        chosen(environment={"BULKFETCH_CONFIG": str(tmp_path / "no.toml")})


@pytest.mark.parametrize("name", ["token", "client_secret"])
def test_f86_a_secret_in_a_file_that_others_can_read_is_refused(name, tmp_path):
    """Mode 0600 is asked for as soon as the file holds a secret, and only then."""
    config = write(tmp_path, f'{name} = "very-secret"\n', mode=0o640)
    with pytest.raises(ConfigurationError, match=f"holds {name} .*chmod 600") as caught:
        chosen(config=config)
    assert "very-secret" not in str(caught.value)
    chosen(config=write(tmp_path, f'{name} = "very-secret"\n', mode=0o600))
    chosen(config=write(tmp_path, "rate = 1\n", mode=0o644))


def test_wrong_text_is_said_with_its_source():
    """What int() would say is replaced by words."""
    with pytest.raises(ConfigurationError, match="--retries: 'many' is not a whole number"):
        chosen({"retries": "many"})
    with pytest.raises(ConfigurationError, match="BULKFETCH_RETRY_BUDGET: 'x' is not a number"):
        chosen(environment={"BULKFETCH_RETRY_BUDGET": "x"})


def test_the_nearest_source_of_the_token_hides_the_others():
    """Who says --token-command need not unset BULKFETCH_TOKEN first."""
    environment = {"BULKFETCH_TOKEN": "old", "BULKFETCH_ENDPOINT": ENDPOINT}
    options = make_options(chosen({"token_command": "print-token"}, environment))
    assert options.token is None
    assert options.token_command == "print-token"


def test_two_sources_of_the_token_side_by_side_are_refused():
    """Within one layer the choice is the user's."""
    environment = {"BULKFETCH_TOKEN": "a", "BULKFETCH_TOKEN_FILE": "b"}
    with pytest.raises(ConfigurationError, match="token and token_file are set"):
        make_options(chosen({"endpoint": ENDPOINT}, environment))


def test_without_an_endpoint_there_are_no_options():
    """The one setting that has no default is asked for by all its names."""
    with pytest.raises(ConfigurationError, match="--endpoint URL, or set BULKFETCH_ENDPOINT"):
        make_options(chosen())


def test_defaults_are_those_of_options():
    """Without any source the options are the ones an embedding program gets."""
    assert make_options(chosen({"endpoint": ENDPOINT})) == Options(endpoint=ENDPOINT)


def test_f86_what_is_shown_holds_no_secret():
    """Secrets, and commands that may hold one, are masked; all else is there with its source."""
    environment = {
        "BULKFETCH_TOKEN_COMMAND": "curl -u me:very-secret",
        "BULKFETCH_CLIENT_SECRET": "very-secret",
        "BULKFETCH_RATE": "20/s",
    }
    rows = list(shown(chosen(environment=environment)))
    assert [name for name, _, _ in rows] == list(settings())
    assert "very-secret" not in str(rows)
    assert ("client_secret", "***", "BULKFETCH_CLIENT_SECRET") in rows
    assert ("rate", "20", "BULKFETCH_RATE") in rows
    assert ("endpoint", "", "not set") in rows


def test_the_template_is_a_file_of_all_settings_that_is_accepted(tmp_path):
    """As it is printed nothing changes; each line made to count is read; no secret is set."""
    text = template()
    assert default_options(chosen(config=write(tmp_path, text))) == default_options(chosen())
    assert not {"token", "client_secret"} & set(tomllib.loads(text))
    spoken = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert list(tomllib.loads(spoken)) == list(settings())
    for name, one in chosen(config=write(tmp_path, spoken)).items():
        alone = {"endpoint": ENDPOINT, name: one.value}
        needed = {"key": {"cert": "c"}, "token_url": {"client_id": "i", "client_secret": "s"}}
        Options(**{**needed.get(name, {}), **alone})


def default_options(found):
    return {name: one.value for name, one in found.items()}


def test_a_misspelt_variable_is_noticed():
    """A slip that would have no effect is named, with the nearest name; others' are left alone."""
    environment = {"BULKFETCH_CONCURENCY": "1", "BULKFETCH_CONFIG": "x", "OTHER": "y"}
    (complaint,) = strangers(environment)
    assert "did you mean BULKFETCH_CONCURRENCY" in complaint


def test_a_proxys_password_is_no_flag():
    """Everybody on the machine could read it there; the message says where it goes."""
    with pytest.raises(ConfigurationError, match="BULKFETCH_PROXY_PASSWORD") as caught:
        choose({"proxy": "http://me:hunter2@proxy.example"}, environment={})
    assert "hunter2" not in str(caught.value)


def test_a_proxys_password_from_the_environment_is_not_shown():
    """Whether it has a variable of its own or stands in the URL."""
    environment = {
        "BULKFETCH_PROXY": "http://me:hunter2@proxy.example",
        "BULKFETCH_PROXY_PASSWORD": "hunter3",
    }
    lines = {name: text for name, text, _ in shown(choose({}, environment=environment))}
    assert lines["proxy"] == "http://me@proxy.example"
    assert lines["proxy_password"] == "***"


def test_a_file_with_a_proxys_password_is_private(tmp_path):
    """As with every secret: no file that others can read may hold it."""
    config = tmp_path / "config.toml"
    config.write_text('proxy = "http://me:hunter2@proxy.example"')
    config.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        choose({}, environment={}, config=str(config))
    assert "hunter2" not in str(caught.value)
