"""The faults of transport over aiohttp's parser in pure Python, which is there without a compiler.

The same tests run in a process of their own that has no extensions: what they say of the parser in
C must hold of the other one, word by word.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAULTS = "f06 or f07 or f08 or f10 or f11 or f12 or f13 or f19 or f22 or f23 or connection or body"


@pytest.mark.parametrize(
    "words",
    [
        [str(HERE / "test_whole_answers.py")],
        [str(HERE / "test_http_faults.py"), str(HERE / "test_direct.py"), "-k", FAULTS],
    ],
    ids=["whole answers", "faults"],
)
def test_the_parser_in_pure_python(words):
    """It is the one in use there, and every test passes."""
    if "AIOHTTP_NO_EXTENSIONS" in os.environ:
        pytest.skip("this is that process")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words],
        cwd=HERE.parent.parent,
        env=os.environ | {"AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
