"""The floors of the package: a file imports lower floors only, and each library has its home.

The table below is the plan of the house. A new file belongs on the lowest floor on which it can
stand; a file that needs one of its own floor stands a step above it, and the step is written here.
"""

from __future__ import annotations

import ast
import sys
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

import bulkfetch

PACKAGE = Path(bulkfetch.__file__).parent

FLOORS = (
    # 0, words: the standard library only; no asyncio, no files
    {"_errors", "_setting", "_text"},
    {"_model", "_options"},
    # 1, pure: no clock, socket, file or asyncio
    {
        "_adaptive",
        "_charts",
        "_gunzip",
        "_hooks",
        "_journal",
        "_latency",
        "_layout",
        "_members",
        "_pacing",
        "_parser",
    }
    | {"_parser", "_protocol", "_records", "_tally", "_timeline"},
    # 2, hands: each file touches one outside thing
    {"_batch", "_system"},
    {"_ids", "_inspect", "_limiter", "_outbox", "_pipe", "_plain", "_rows", "_settings", "_sink"}
    | {"_source", "_survey", "_transport"},
    {"_direct", "_token"},  # on a transport's parts; its endpoint is called through one
    # 3, the machine
    {"_fetch"},
    {"_discover", "_engine"},
    {"_export"},
    # 4, people
    {"_metrics", "_progress", "_tracing", "testing"},
    {"_bench", "_report"},
    {"_report_page"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
PURE = set().union(*FLOORS[:3])
CEILINGS = {"testing": 6}  # the steps of floors 0-2: tests of the machine must not need it

HOMES = {
    "aiohttp": {"_direct", "_plain", "_transport", "testing"},
    "click": {"cli"},
    "hdrh": {"_latency", "_tally"},
    "lxml": {"_parser", "_records"},
    "multidict": {"_plain"},
    "opentelemetry": {"_tracing"},
    "orjson": set().union(*FLOORS),
    "prometheus_client": {"_metrics"},
    "rich": {"_progress", "cli"},
    "tenacity": {"_fetch"},
    "uvloop": {"cli"},
    "yarl": {"_direct"},
    "zstandard": {"_ids", "_members", "_survey"},
}
NAMED_IN_SIGNATURES = {"aiohttp": {"_discover", "_engine", "_export"}}  # the caller's own session
IMPURE = {
    "asyncio", "http", "io", "os", "random", "select", "selectors", "shutil", "signal", "socket",
    "ssl", "subprocess", "tempfile", "threading", "time", "urllib.request",
}  # fmt: skip


class Import(NamedTuple):
    line: int
    module: str
    typed: bool
    """Whether it stands under TYPE_CHECKING, and so is not there when the program runs."""


def step(place):
    return next((number for number, places in enumerate(FLOORS) if place in places), None)


def imports(source):
    """Every import of the source, in functions and under TYPE_CHECKING too."""
    tree = ast.parse(source)
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for module in modules(node):
            yield Import(node.lineno, module, id(node) in typing)


def modules(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level:
        return ["." * node.level + (node.module or "")]
    if isinstance(node, ast.ImportFrom) and node.module == "bulkfetch":
        known = set(chain.from_iterable(FLOORS))
        return [
            f"bulkfetch.{alias.name}" if alias.name in known else "bulkfetch"
            for alias in node.names
        ]
    return [node.module] if isinstance(node, ast.ImportFrom) else []


def problems(place, source):
    """Say what is wrong with the imports of a file, one sentence each."""
    if step(place) is None:
        yield (
            f"{place} is on no floor: add it to FLOORS in {Path(__file__).name}, as low as its "
            "imports allow"
        )
        return
    for found in imports(source):
        trouble = judge(place, found)
        if trouble:
            yield f"{place}, line {found.line}: {trouble}"


def judge(place, found):
    top = found.module.partition(".")[0]
    if not top:
        return f"write {found.module} in full, as bulkfetch._name"
    if top == "bulkfetch":
        return judge_own(place, found.module)
    if top in sys.stdlib_module_names:
        impure = {found.module, top} & IMPURE and place in PURE and not found.typed
        return impure and f"{found.module} has no place on a floor without clock, socket and file"
    if top not in HOMES:
        return f"{top} has no home: add it to HOMES in {Path(__file__).name}"
    if place in HOMES[top] or (found.typed and place in NAMED_IN_SIGNATURES.get(top, ())):
        return None
    return f"{top} is used in {', '.join(sorted(HOMES[top]))} only"


def judge_own(place, module):
    other = [*module.split("."), "__init__"][1]
    if other == place and "." in module:
        return None  # files of one package, such as testing, belong together
    there, here = step(other), step(place)
    if there is None:
        return f"{module} is on no floor"
    if there < min(here, CEILINGS.get(place, here)):
        return None
    return f"{module} is not below {place}: move what both need to a lower floor"


def place_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_lower_floors_only(path):
    """No upward import, none of its own floor, and no library outside its home."""
    assert list(problems(place_of(path), path.read_text())) == []


def test_there_are_files_to_check():
    """The search finds the package's files, those in folders too."""
    names = {path.relative_to(PACKAGE).as_posix() for path in FILES}
    assert {"_errors.py", "_parser.py", "testing/__init__.py"} <= names


@pytest.mark.parametrize(
    ("place", "source", "words"),
    [
        ("_errors", "from bulkfetch._model import Field", "_model is not below _errors"),
        ("_model", "from bulkfetch._options import Options", "_options is not below _model"),
        ("_parser", "import bulkfetch._protocol", "_protocol is not below _parser"),
        ("_parser", "from bulkfetch import _records", "_records is not below _parser"),
        ("_parser", "from bulkfetch import export", "bulkfetch is not below _parser"),
        ("_parser", "import bulkfetch", "bulkfetch is not below _parser"),
        ("_parser", "from . import _records", "write . in full"),
        ("_parser", "from ._model import Field", "write ._model in full"),
        ("_parser", "from bulkfetch._nowhere import x", "bulkfetch._nowhere is on no floor"),
        ("_fetch", "def f():\n    from bulkfetch._engine import x", "line 2"),
        (
            "_text",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bulkfetch._errors",
            "line 3",
        ),
        ("_sink", "if typing.TYPE_CHECKING:\n    from bulkfetch._rows import Spool", "_rows"),
        ("testing", "from bulkfetch._fetch import Fetcher", "_fetch is not below testing"),
        ("__init__", "from bulkfetch.cli import main", "bulkfetch.cli is not below __init__"),
        ("_fetch", "import lxml.etree", "lxml is used in _parser, _records only"),
        ("_fetch", "import aiohttp", "aiohttp is used in"),
        ("_engine", "from aiohttp import ClientSession", "aiohttp is used in"),
        ("_engine", "from tenacity import retry", "tenacity is used in _fetch only"),
        ("_report", "import click", "click is used in cli only"),
        ("_engine", "import rich.progress", "rich is used in _progress, cli only"),
        (
            "_engine",
            "from hdrh.histogram import HdrHistogram",
            "hdrh is used in _latency, _tally only",
        ),
        ("_engine", "import requests", "requests has no home"),
        ("_pacing", "import time", "time has no place"),
        ("_journal", "from os import fsync", "os has no place"),
        ("_protocol", "import urllib.request", "urllib.request has no place"),
        ("_tally", "import asyncio.locks", "asyncio.locks has no place"),
        ("_helpers", "", "_helpers is on no floor: add it to FLOORS in test_floors.py"),
    ],
)
def test_the_check_sees_a_wrong_import(place, source, words):
    """An upward import, a stranger or a clock on a pure floor would be found, with its line."""
    said = list(problems(place, source))
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("_model", "from bulkfetch._errors import CourseError"),
        ("_protocol", "from urllib.parse import urlsplit\nimport re"),
        ("_engine", "import asyncio\nfrom bulkfetch import _fetch"),
        ("_engine", "if TYPE_CHECKING:\n    from aiohttp import ClientSession"),
        ("_layout", "if TYPE_CHECKING:\n    import os"),
        ("testing", "from bulkfetch.testing._server import S\nfrom bulkfetch._token import x"),
        ("cli", "import bulkfetch\nfrom bulkfetch import export\nimport click, rich, uvloop"),
        ("__main__", "from bulkfetch.cli import main"),
        ("_rows", "import orjson, os, tempfile"),
    ],
)
def test_the_check_lets_a_right_import_pass(place, source):
    """What the plan allows is not complained about."""
    assert list(problems(place, source)) == []
