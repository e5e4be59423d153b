"""The rooms of the package hold: who may import whom, and what lives where.

The contracts stand in pyproject.toml (`lint-imports` says them one by one); what they cannot say
stands here.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import bulkfetch

PACKAGE = Path(bulkfetch.__file__).parent
ROOT = PACKAGE.parent
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]


def lint(root):
    words = [*LINT, "--no-cache"]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)


def test_every_contract_is_kept():
    """Rooms import rooms below them only, and each library is used in its home only."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        ("_soap/protocol", "from bulkfetch._engine import run", "A room imports rooms below it"),
        ("_pace/limiter", "from bulkfetch._output import file", "A room imports rooms below it"),
        ("_soap/parser", "import aiohttp", "HTTP lives in _http"),
        ("_pace/rules", "import time", "Pure code holds no clock"),
    ],
)
def test_a_planted_import_breaks_a_contract(file, planted, contract, tmp_path):
    """A room upward, a room beside it, a library away from home, a clock: each is noticed."""
    shutil.copytree(PACKAGE, tmp_path / "bulkfetch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "bulkfetch" / f"{file}.py"
    module.write_text(f"{module.read_text()}\n{planted}  # planted\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"{contract}" in done.stdout
    assert "Contracts: 12 kept, 1 broken" in done.stdout


def test_a_room_introduces_itself_in_one_sentence():
    """What a room is for stands in its `__init__`, which holds nothing else."""
    for room in sorted(PACKAGE.glob("_*/__init__.py")):
        tree = ast.parse(room.read_text())
        assert len(tree.body) == 1, room
        text = ast.get_docstring(tree)
        assert text, room
        assert text.count(".") == 1, room


def test_one_name_one_thing():
    """No class name stands twice in the package."""
    names = Counter(
        node.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, number in names.items() if number > 1] == []


def test_every_file_is_in_a_room():
    """Beside the rooms only the package's own two files and one public module stand."""
    names = {file.name for file in PACKAGE.glob("*.py")}
    assert names == {"__init__.py", "__main__.py", "shards.py"}
