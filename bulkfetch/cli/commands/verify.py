"""`verify`: every byte of an output against its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from bulkfetch._domain.errors import OutputError
from bulkfetch.cli.files import read_output
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch.cli.voice import Voice

NOT_FINISHED: Final = 7
"""The exit code for an output that is sound as far as it goes."""


@command("verify")
@click.argument("output", metavar="OUT")
def verify(voice: Voice, *, output: str) -> int:
    """Check every byte of OUT against its journal and its manifest.

    Exits 0 only for a finished, published output that is what they say, 7 for one that is not
    finished, 6 for one that is not sound: `bulkfetch verify OUT && load OUT` is safe. Of a run in
    shards every part is checked.
    """
    from bulkfetch._domain.wording import counted
    from bulkfetch._output import inspect as _inspect
    from bulkfetch._output.manifest import lacking_words, limit_of, partial_of
    from bulkfetch._output.parts import find_parts

    ledger = read_output(output)  # says in words when there is none
    parts = [part.output for part in find_parts(output)]
    findings = [_inspect.verify(path) for path in (output, *parts)]
    problems = [problem for found in findings for problem in found.problems]
    for problem in problems:
        voice.say(problem, always=True)
        voice.event("problem", {"message": problem}, always=True)
    if problems:
        raise OutputError(f"{output} is not sound: {counted(len(problems), 'problem')}")
    ledger = ledger if parts else findings[0].ledger
    held = (
        f"{counted(ledger.fetched, 'course')}, {counted(ledger.rows, 'row')}, "
        f"{counted(ledger.end, 'byte')}, as the journal says"
    )
    unfinished = findings[0].unfinished
    if parts:
        then = "a run is at work" if _inspect.is_running(output) else "run the same command again"
        unfinished = f"in {counted(len(parts), 'part')}, not joined yet: {then}"
    if unfinished:
        said = f"{output} is {unfinished}; sound so far: {held}"
        voice.fail(said, exit_code=NOT_FINISHED, kind="unfinished")
        return NOT_FINISHED
    done = ledger.last_done  # a later run in vain leaves what was finished as it is
    lacking = lacking_words(limit_of(done), partial_of(done)) if done else ""
    which = f", {lacking}" if lacking else ""
    click.echo(f"{output}: finished{which}; {held}")
    return 0
