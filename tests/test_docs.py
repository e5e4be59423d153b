"""The README against the product: what it lists is made from the code, its programs run.

`python tests/test_docs.py` writes the table of settings and the list of public names anew.
"""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import bulkfetch
from bulkfetch._config.options import settings
from bulkfetch._config.sources import default_text

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MARKS = re.compile(r"(<!-- settings:.*?-->\n)(.*?)(<!-- /settings -->)", re.DOTALL)
API = re.compile(r"(<!-- api:.*?-->\n)(.*?)(<!-- /api -->)", re.DOTALL)


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


def public_names():
    """Each public name but the errors, and what it is."""
    unions = {"Outcome": "`Fetched` or `Failed`.", "Change": "`Added`, `Changed` or `Removed`."}
    lines = ["| name | what it is |", "| --- | --- |"]
    for name in sorted(set(bulkfetch.__all__) - errors(), key=lambda name: (name[0] < "a", name)):
        found = getattr(bulkfetch, name)
        call = "()" if inspect.isfunction(found) else ""
        lines.append(f"| `{name}{call}` | {unions.get(name) or first_words(found)} |")
    return lines


def first_words(found):
    words = inspect.getdoc(found).partition("\n\n")[0].replace("\n", " ")
    return words.replace("|", "\\|")


def errors():
    found = {name: getattr(bulkfetch, name) for name in bulkfetch.__all__}
    return {name for name, one in found.items() if inspect.isclass(one) and is_error(one)}


def is_error(one):
    return issubclass(one, bulkfetch.BulkfetchError)


def error_tree(error=bulkfetch.BulkfetchError, indent=0):
    """The public errors, each under the one it is a kind of, with the command's exit code."""
    code = f" Exit {error.exit_code}." if error.__base__ is bulkfetch.RunError else ""
    yield f"{'  ' * indent + error.__name__:<26}{first_words(error)}{code}"
    for kind in error.__subclasses__():
        if kind.__name__ in errors():
            yield from error_tree(kind, indent + 1)


def summary_fields():
    """The fields of a Summary, as its docstring tells them."""
    told = dict(re.findall(r"^ +(\w+): (.*)$", inspect.getdoc(bulkfetch.Summary), re.MULTILINE))
    assert told.keys() == {field.name for field in fields(bulkfetch.Summary)}
    return [
        "| field | what it is |",
        "| --- | --- |",
        *(f"| `{n}` | {w} |" for n, w in told.items()),
    ]


def api_section():
    return "\n".join(
        [
            *public_names(),
            "",
            "Errors: a `CourseError` is a value, in `Failed.error`; a `RunError` is raised.",
            "",
            "```text",
            *error_tree(),
            "```",
            "",
            "`Summary`, which `export` returns:",
            "",
            *summary_fields(),
            "",
        ]
    )


def blocks(language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_table_of_settings_is_made_from_the_settings():
    """A setting cannot be added, renamed or changed without its line in the README."""
    match = MARKS.search(README.read_text("utf-8"))
    assert match[2] == settings_table(), "run: python tests/test_docs.py"


def test_the_public_names_are_made_from_the_code():
    """No name, error or field of a Summary can be added or changed without its line."""
    match = API.search(README.read_text("utf-8"))
    assert match[2] == api_section(), "run: python tests/test_docs.py"


def test_the_embedding_example_runs(tmp_path):
    """The README's program does what it says, without a warning, and leaves nothing behind."""
    (code,) = blocks("python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
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

    from bulkfetch.cli.program import group

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
    text = MARKS.sub(lambda m: m[1] + settings_table() + m[3], text)
    README.write_text(API.sub(lambda m: m[1] + api_section() + m[3], text), "utf-8")
