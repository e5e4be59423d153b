"""What type checkers see of the public names: what is there is typed, what is not is an error."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from test_docs import ROOT, blocks

MISTYPED = """
import bulkfetch
bulkfetch.exprot
bulkfetch.Options(endpoint="https://a.example/x", concurency=3)
bulkfetch.Options(endpoint="https://a.example/x", rate=b"20/s")
"""
PLAIN = """
import bulkfetch
options = bulkfetch.Options(
    endpoint="https://a.example/x", token="t", rate="20/s", max_errors=5, cacert="ca.pem"
)
rate: float | None = options.rate
token: bulkfetch.Secret | None = options.token
"""
CHECKERS = {
    "mypy": ("mypy", "--strict", "--no-incremental", "--hide-error-context"),
    "pyright": ("pyright", "--pythonpath", sys.executable),
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_tells_good_programs_from_mistyped_ones(checker, tmp_path):
    """The README's program and plain values pass; a name, field or type that is none does not."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    (readme,) = blocks("python")
    for name, text in {"readme": readme, "plain": PLAIN, "mistyped": MISTYPED}.items():
        (tmp_path / f"{name}.py").write_text(text)
    module, *flags = CHECKERS[checker]
    done = subprocess.run(
        [sys.executable, "-m", module, *flags, "readme.py", "plain.py", "mistyped.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line.strip() for line in done.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in wrong] == ["3", "4", "5"], done.stdout + done.stderr
    assert all("mistyped.py:" in line for line in wrong)
    for line, word in zip(wrong, ("exprot", "concurency", "rate"), strict=True):
        assert word in line


def test_help_opens_with_what_a_user_needs():
    """The first screen of `help(bulkfetch)` is a program, not a plan of the house."""
    import bulkfetch

    first = bulkfetch.__doc__.splitlines()[:8]
    assert first[0].startswith("Export every learner's final status")
    assert any("bulkfetch.Options(endpoint=" in line for line in first)
    assert any("await bulkfetch.export(" in line for line in first)
