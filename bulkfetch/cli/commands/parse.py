"""`parse`: saved responses into the same rows, without any network.

A file's rows are shown only when its whole document is proven good, as in a run.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkfetch._domain.errors import CourseError
from bulkfetch.cli.files import writing
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from bulkfetch._output.spool import Spool
    from bulkfetch.cli.voice import Voice


@command("parse")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--id", "course_id", metavar="ID", help="The course's id; else the file's name.")
@click.option("-o", "--output", metavar="OUT|-", default="-", help="Where the rows go.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def parse(
    voice: Voice, *, files: tuple[str, ...], course_id: str | None, output: str, overwrite: bool
) -> int:
    """Turn saved responses into rows, one FILE a course.

    A course's id is its file's name without the ending, unless --id says it. FILE may be -, for
    stdin, with --id.
    """
    if course_id and len(files) > 1:
        raise click.UsageError(f"--id names one course, but there are {len(files)} files")
    if "-" in files and not course_id:
        raise click.UsageError("stdin has no name: say the course's id with --id")
    failed = 0
    with writing(output, overwrite=overwrite) as write:
        for file in files:
            try:
                with _rows_of(file, course_id or Path(file).stem) as (rows, strays):
                    write(rows.ndjson())
                if strays:
                    advice = "" if course_id else ": if that is the course, name it with --id"
                    voice.warn(
                        f"{file}: {strays:,} of its rows name another course, kept as "
                        f"_contentItemId{advice}"
                    )
            except CourseError as error:
                failed += 1
                voice.fail(f"{file}: {error.message}", exit_code=1, kind=error.kind)
    return 1 if failed else 0


@contextmanager
def _rows_of(file: str, course_id: str) -> Iterator[tuple[Spool, int]]:
    """Read all rows of a response, and how many name another course.

    Raises CourseError when it is none, or cannot be read.
    """
    from bulkfetch._output.spool import Spool

    spool = Spool()
    try:
        yield spool, _read(file, course_id, spool)
    finally:
        spool.close()


def _read(file: str, course_id: str, spool: Spool) -> int:
    from bulkfetch._domain.model import GET_FINAL_STATUSES
    from bulkfetch._ids.check import check_id
    from bulkfetch._soap.parser import ResponseParser, parse_file
    from bulkfetch._soap.records import RowFormat
    from bulkfetch._soap.verdicts import judge_saved

    try:
        encode = RowFormat(GET_FINAL_STATUSES).encoder(check_id(course_id))
    except ValueError as error:
        raise CourseError("id", f"{error}; say the course's id with --id") from None
    parser = ResponseParser(GET_FINAL_STATUSES, encode)
    try:
        with _opened(file) as source:
            for rows in parse_file(source, parser):
                spool.append(rows, rows.count(b"\n"))
    except CourseError as error:
        raise judge_saved(error, parser.beginning) from None
    except OSError as error:
        raise CourseError("file", f"cannot be read: {error.strerror or error}") from None
    return encode.strays


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
    else:
        with Path(file).open("rb") as source:
            yield source
