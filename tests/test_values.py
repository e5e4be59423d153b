"""Every public value crosses processes: it pickles, copies and becomes a dictionary.

A new public name must be told apart here, else a test fails: a value with an example, or machinery.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import bulkfetch
from bulkfetch import (
    Attempt,
    Checked,
    Commit,
    ContentItem,
    Failed,
    Fetched,
    FinalStatus,
    Hooks,
    Options,
    Refused,
    Secret,
    State,
    Summary,
    Transient,
    Wait,
)
from bulkfetch._domain import errors
from bulkfetch._output.spool import Spool
from bulkfetch._soap.protocol import Spelling

ARGUMENTS = {
    "kind": "timeout",
    "message": "it took too long; try again",
    "retry_after": 2.5,
    "overload": True,
    "most_retries": 2,
    "code": "SOAP-ENV:Client.x",
    "settled": False,
    "part": "envelope",
    "text": "Unknown content item",
}


def made(error):
    """An error with something other than its default in each of its attributes."""
    parameters = inspect.signature(error.__init__).parameters.values()
    named = [one for one in parameters if one.kind != inspect.Parameter.VAR_POSITIONAL]
    given = {one.name: ARGUMENTS[one.name] for one in named if one.name in ARGUMENTS}
    return error(**given) if given else error(ARGUMENTS["message"])


def rows(number):
    spool = Spool()
    for one in range(number):
        status = {"contentItemId": "c1", "userId": f"u{one}", "status": "Passed", "progress": 9.5}
        spool.append(json.dumps(status).encode() + b"\n", 1)
    return spool


ERRORS = {
    name: made(value) for name in errors.__all__ if isinstance(value := getattr(errors, name), type)
}
COUNTS = {"timeout": 3}
VALUES = {
    **ERRORS,
    "Attempt": Attempt("c1", 2, 0.5, Transient("timeout", "slow", retry_after=1.5)),
    "Checked": Checked(Spelling("https", "http"), 0.25, "it works"),
    "Commit": Commit(3, 40, 0.01),
    "ContentItem": ContentItem("c1", "Fire safety", None, {"x": ["y"]}),
    "Failed": Failed(
        "c1", Refused("unknown-content-item", "no such course", settled=False), 2, 1.5
    ),
    "Fetched": Fetched("c1", rows(3), 2, 0.75),
    "FinalStatus": FinalStatus("c1", "u1", "Passed", 100.0, {"note": "x"}),
    "Hooks": Hooks(outcome=print),
    "Options": Options(endpoint="https://acme.example/soap", token_file="t", rate=20.0),
    "Outcome": bulkfetch.Outcome,
    "State": State(
        **{
            **{item.name: 1 for item in dataclasses.fields(State)},
            "in_flight": ("c1",),
            "waited": {"rate": 1.5},
        }
    ),
    "Summary": Summary(failures=COUNTS, retries=COUNTS, waited={"rate": 1.5}, rows=3),
    "Wait": Wait("c1", 1.5, "timeout"),
    "Added": bulkfetch.Added(FinalStatus("c1", "u1", "Passed", 100.0)),
    "Change": bulkfetch.Change,
    "Changed": bulkfetch.Changed(
        FinalStatus("c1", "u1", "Passed", 100.0), FinalStatus("c1", "u1", None, None)
    ),
    "Loaded": bulkfetch.Loaded(
        target="w.duckdb",
        new=True,
        rows=3,
        deleted=2,
        courses=2,
        left_alone=1,
        unknown=("c9",),
        dropped=False,
    ),
    "Removed": bulkfetch.Removed(FinalStatus("c1", "u1", None, None, {"note": "x"})),
    "no rows": Fetched("c1", rows(0)),
    "many rows": Fetched("c1", rows(20_000)),
}
SECRET = "p-1sJDjmULL5DdpXPJTcbm4jVIaWVHvNmrjAxATRbNE"
MACHINERY = {"Comparison", "Limiter", "Monitor", "Run"}
"""Live objects of one process; what they tell (State, Summary) are values."""
BY_NAME = {
    "Reply", "Rows", "Transport", "check", "diff", "discover", "export", "load",
    "prometheus_hooks", "stream", "tracing_hooks",
}  # fmt: skip
"""Functions and protocols, which are pickled by their names."""

NESTED = (Checked, bulkfetch.Added, bulkfetch.Changed, bulkfetch.Removed)

CARRIED = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "highest protocol": lambda value: pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_f126_every_public_name_is_told_apart():
    """A name that is new in `bulkfetch.__all__` has an example here, or a reason for none."""
    kinds = [set(VALUES) & set(bulkfetch.__all__), MACHINERY, BY_NAME, {"Secret"}]
    assert sorted(bulkfetch.__all__) == sorted(name for kind in kinds for name in kind)


@pytest.mark.parametrize("carry", CARRIED.values(), ids=CARRIED)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_f126_every_public_value_and_error_is_carried_over_equal(value, carry):
    """Type, text and every attribute are what they were."""
    carried = carry(value)
    assert type(carried) is type(value)
    assert carried == value
    assert (str(carried), repr(carried)) == (str(value), repr(value)) or "0x" in repr(value)
    assert getattr(carried, "__dict__", None) == getattr(value, "__dict__", None)


@pytest.mark.parametrize("value", [v for v in VALUES.values() if dataclasses.is_dataclass(v)])
def test_f126_every_record_becomes_a_dictionary_equal_to_it(value):
    """`asdict` holds each field, and what it holds is a copy that can be changed."""
    fields = dataclasses.asdict(value)
    assert list(fields) == [item.name for item in dataclasses.fields(value)]
    if not isinstance(value, NESTED):  # whose records become dictionaries too
        assert type(value)(**fields) == value


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_f126_functions_and_protocols_are_carried_by_name(name):
    """A public function can be a task of a cluster."""
    value = getattr(bulkfetch, name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_f126_rows_are_carried_with_their_bytes():
    """Whether they were in memory or on disk; the original may be closed then."""
    for name in ("Fetched", "no rows", "many rows"):
        value = Fetched("c1", rows(len(VALUES[name].rows)))
        carried, copied = pickle.loads(pickle.dumps(value)), dataclasses.asdict(value)
        expected = b"".join(value.rows.ndjson())
        value.rows.close()
        for found in (carried.rows, copied["rows"]):
            assert b"".join(found.ndjson()) == expected
            assert [one.user_id for one in found] == [f"u{one}" for one in range(len(found))]
            found.close()


def test_f126_rows_differ_by_one_byte():
    """Equal means the same rows, not the same number of them."""
    one, other = rows(3), rows(2)
    last = b"".join(rows(3).ndjson()).splitlines(keepends=True)[-1]
    other.append(last.replace(b"Passed", b"Failed"), 1)
    assert (len(one), one.nbytes) == (len(other), other.nbytes)
    assert one != other
    assert one == rows(3)
    assert hash(one) == hash(rows(3))


def test_f126_errors_differ_by_any_attribute():
    """Equal errors are of one type and hold the same."""
    one = Transient("timeout", "slow", retry_after=1.0)
    assert one == Transient("timeout", "slow", retry_after=1.0)
    assert hash(one) == hash(Transient("timeout", "slow"))
    for other in (
        Transient("timeout", "slow"),
        Transient("reset", "slow", retry_after=1.0),
        Transient("timeout", "late", retry_after=1.0),
        errors.StaleConnection("timeout", "slow", retry_after=1.0),
        "slow",
    ):
        assert one != other


def test_f126_options_become_a_dictionary_that_shows_no_secret():
    """Copies hold the same secrets, unseen; pickling says what to hand over instead."""
    options = Options(endpoint="https://acme.example/soap", token=SECRET)
    fields = dataclasses.asdict(options)
    assert fields["token"] == Secret(SECRET)
    for carried in (Options(**fields), copy.copy(options), copy.deepcopy(options)):
        assert carried == options
    assert SECRET not in f"{fields} {fields!r} {json.dumps(fields, default=str)}"
    for value in (options, fields, Secret(SECRET), [Secret(SECRET)]):
        with pytest.raises(TypeError, match=r"a Secret is not pickled: .*token_file"):
            pickle.dumps(value)


def test_f126_values_reach_a_process_that_imports_nothing_of_ours_first(tmp_path):
    """Unpickling finds what it needs by itself."""
    path = tmp_path / "values"
    path.write_bytes(pickle.dumps([value for name, value in VALUES.items() if name != "Hooks"]))
    code = "import pickle, sys; print(len(pickle.load(open(sys.argv[1], 'rb'))))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(bulkfetch.__file__).parent.parent,
    )
    assert done.stdout == f"{len(VALUES) - 1}\n"
