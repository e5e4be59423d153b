"""The README against the product: its table is made from the settings, its code runs.

`python tests/test_docs.py` writes the table anew.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bulkfetch._options import settings
from bulkfetch._settings import default_text

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MARKS = re.compile(r"(<!-- settings:.*?-->\n)(.*?)(<!-- /settings -->)", re.DOTALL)


def settings_table():
    lines = []
    group = None
    for name, setting in settings().items():
        if setting.group != group:
            group = setting.group
            lines += [
                "",
                f"**{group}**",
                "",
                "| setting | what it is | default |",
                "| --- | --- | --- |",
            ]
        flag = f"--{name.replace('_', '-')}" if setting.flag else f"BULKFETCH_{name.upper()}"
        words = setting.help.replace("|", "\\|")
        default = default_text(name)
        lines.append(f"| `{flag}` | {words} | {f'`{default}`' if default else ''} |")
    return "\n".join([*lines[1:], ""])


def blocks(language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_table_of_settings_is_made_from_the_settings():
    """A setting cannot be added, renamed or changed without its line in the README."""
    match = MARKS.search(README.read_text("utf-8"))
    assert match[2] == settings_table(), "run: python tests/test_docs.py"


def test_the_embedding_example_runs(tmp_path):
    """The README's program does what it says, without a warning, and leaves nothing behind."""
    (code,) = blocks("python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    *courses, last = run.stdout.splitlines()
    assert len(courses) == 50
    assert re.fullmatch(r"\d+ rows", last)
    assert {path.name for path in tmp_path.iterdir()} == {
        "statuses.ndjson",
        "statuses.ndjson.journal",
        "statuses.ndjson.manifest.json",
    }


def test_every_command_of_the_readme_is_one():
    """Each `bulkfetch COMMAND` and each flag that the README shows exists."""
    from click.testing import CliRunner

    from bulkfetch.cli._main import group

    shown = set(re.findall(r"bulkfetch ([a-z-]+)", "\n".join(blocks("console") + blocks("sh"))))
    table = set(re.findall(r"^\| `bulkfetch ([a-z-]+)", README.read_text("utf-8"), re.MULTILINE))
    runner = CliRunner()
    assert table >= shown
    for command in sorted(table):
        result = runner.invoke(group, [command, "--help"])
        assert result.exit_code == 0, f"{command}: {result.output}"


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`(tests/[a-z_]+\.py)`", README.read_text())))
)
def test_the_tests_that_the_readme_names_exist(path):
    """A promise names a test that is there."""
    assert (ROOT / path).is_file()


if __name__ == "__main__":
    text = README.read_text("utf-8")
    README.write_text(MARKS.sub(lambda m: m[1] + settings_table() + m[3], text), "utf-8")
