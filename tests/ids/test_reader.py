"""Lists of ids on disk, in pipes and on stdin: read once or again, unchanged or not at all."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
import threading
from contextlib import aclosing

import pytest
import zstandard

from bulkfetch import ConfigurationError
from bulkfetch._ids.formats import IdReader
from bulkfetch._ids.reader import CountedIds, IdFile, _from_descriptor, open_ids


def test_a_file_is_read_lazily_more_than_once_and_its_length_is_known(tmp_path):
    """A plain file has a length, and gives its ids again each time it is asked."""
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{number}\n" for number in range(20_000)))
    ids = open_ids(str(path))
    assert isinstance(ids, CountedIds)
    assert len(ids) == 20_000
    assert list(ids) == list(ids) == [str(number) for number in range(20_000)]


def test_the_mistake_in_the_last_line_is_found_before_the_run(tmp_path):
    """A file of moderate size is checked to its end when it is opened."""
    path = tmp_path / "ids.txt"
    path.write_text("1\n" * 50_000 + "a\x1bb\n")
    with pytest.raises(ConfigurationError, match="line 50001"):
        open_ids(str(path))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        (".ZST", lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:])),
    ],
)
def test_compressed_lists_are_read_to_the_end_of_their_last_part(tmp_path, suffix, compress):
    """gzip and zstd are known by the suffix; several members in a row are one list."""
    data = b"id,n\n" + b"".join(b"%d,x\n" % number for number in range(5000))
    path = tmp_path / f"ids.csv{suffix}"
    path.write_bytes(compress(data))
    assert list(open_ids(str(path))) == [str(number) for number in range(5000)]


def replaced(path, data):
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


CHANGES = {
    "cut to nothing": lambda path, data: path.write_bytes(b""),
    "cut": lambda path, data: os.truncate(path, 150_000),
    "cut at a line": lambda path, data: os.truncate(path, 80_000 // 8 * 8),
    "appended to": lambda path, data: path.write_bytes(path.read_bytes() + b"more\n"),
    "rewritten, shorter": lambda path, data: path.write_bytes(data[: len(data) // 3]),
    "rewritten, longer": lambda path, data: path.write_bytes(b"x" + data),
    "rewritten, same length": lambda path, data: path.write_bytes(data.replace(b"c", b"d")),
    "replaced": replaced,
}


def change(path, how, data):
    """Change the file; when its last write is older than a tick of the clock, as at night."""
    CHANGES[how](path, data)
    os.utime(path, ns=(0, 7))


def many_ids(number=40_000):
    return "".join(f"c{one:06}\n" for one in range(number)).encode()


def large(path):
    return IdFile(str(path), None, path.stat(), print)


def incompressible(data):
    """Literal blocks of zstd, in frames of their own, so that a change shows where it is read."""
    return b"".join(zstandard.compress(data[at : at + 999]) for at in range(0, len(data), 999))


OPENED = {
    "counted": (lambda path: open_ids(str(path)), bytes, ".txt"),
    "large": (large, bytes, ".txt"),
    "gzip": (lambda path: open_ids(str(path)), lambda data: gzip.compress(data, 0), ".GZ"),
    "zstd": (lambda path: open_ids(str(path)), incompressible, ".zst"),
    "stdin": (lambda path: _from_descriptor(os.open(path, os.O_RDONLY), IdReader("s")), bytes, ""),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize(("begin", "pack", "suffix"), OPENED.values(), ids=OPENED)
def test_f113_a_list_that_changes_while_it_is_read_gives_nothing_spliced(
    begin, pack, suffix, how, tmp_path
):
    """What came out is the beginning of the old list, and the end is "the list changed"."""
    if suffix == "" and how == "replaced":
        pytest.skip("stdin has no name that another file could take")
    path = tmp_path / f"ids{suffix}"
    path.write_bytes(pack(many_ids()))
    os.utime(path, ns=(0, 0))
    ids = iter(begin(path))
    given = [next(ids) for _ in range(100)]
    change(path, how, pack(many_ids()))
    with pytest.raises(ConfigurationError, match="the list changed while it was read"):
        given.extend(ids)
    assert given == many_ids().decode().split()[: len(given)]
    assert len(given) < 40_000


@pytest.mark.parametrize("how", CHANGES)
def test_f113_a_list_that_changes_before_it_is_read_gives_nothing(how, tmp_path):
    """What was counted is what is read, or nothing is; also when its times are the same."""
    path = tmp_path / "ids.txt"
    path.write_bytes(many_ids(20_000))
    ids = open_ids(str(path))
    before = path.stat()
    CHANGES[how](path, many_ids(20_000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigurationError, match="the list changed while it was read"):
        next(iter(ids))


def test_f113_the_last_line_without_its_end_is_not_given_when_more_came(tmp_path):
    """A list still being written never gives the half of its last id."""
    path = tmp_path / "ids.txt"
    path.write_bytes(b"c1\nc2\nc3")
    os.utime(path, ns=(0, 0))
    ids = iter(large(path))
    assert [next(ids), next(ids)] == ["c1", "c2"]
    with path.open("ab") as file:
        file.write(b"45\n")
    with pytest.raises(ConfigurationError, match="the list changed"):
        next(ids)


def test_a_list_that_is_removed_while_it_is_read_is_whole(tmp_path):
    """An open file outlives its name."""
    path = tmp_path / "ids.txt"
    path.write_bytes(many_ids())
    ids = iter(open_ids(str(path)))
    given = [next(ids)]
    path.unlink()
    assert [*given, *ids] == many_ids().decode().split()


@pytest.mark.parametrize("name", [os.fsdecode(b"ids-\xff.txt"), "a\x1b[2Jb.txt", "жé☃.txt"])
def test_f117_any_name_of_a_list_is_read_and_can_be_said(name, tmp_path):
    """Bytes that are no UTF-8 and escape sequences in a name end neither the run nor the words."""
    path = tmp_path / name
    path.write_text("c1\n")
    assert list(open_ids(str(path))) == ["c1"]
    path.write_text("c1\n\x07\n")
    with pytest.raises(ConfigurationError, match="line 2") as caught:
        open_ids(str(path))
    assert str(caught.value).encode().isascii() or "жé☃" in str(caught.value)
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read: No such file") as caught:
        open_ids(str(path))
    assert str(caught.value).encode()


def test_a_warning_is_given_once_though_a_file_is_read_twice(tmp_path, caplog):
    """Counting and reading are one reading to whoever wrote the list; the log says it."""
    path = tmp_path / "ids.txt"
    path.write_text("1E+9\n2\n")
    ids = open_ids(str(path))
    assert list(ids) == list(ids) == ["1E+9", "2"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_stdin_by_its_file_name_is_stdin(tmp_path):
    """/dev/stdin and -i - read the same, from where the descriptor stands."""
    path = tmp_path / "ids.txt"
    path.write_text("1\n2\n3\n")
    code = (
        "import os; from bulkfetch._ids.reader import open_ids; os.lseek(0, 2, 0)\n"
        "for name in ('/dev/stdin', '-'): print(*open_ids(name)); os.lseek(0, 2, 0)"
    )
    with path.open() as stdin:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=stdin, capture_output=True, check=False
        )
    assert done.stdout == b"2 3\n2 3\n"


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".GZ"])
def test_what_is_not_compressed_as_its_name_says_is_refused(tmp_path, suffix):
    """A damaged archive is one clear message."""
    path = tmp_path / f"ids.txt{suffix}"
    path.write_bytes(b"1\n2\n3\n")
    with pytest.raises(ConfigurationError, match="cannot be decompressed"):
        open_ids(str(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    """The two commonest slips are told apart."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.txt cannot be read: No such file"):
        open_ids(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ConfigurationError, match="is a folder"):
        open_ids(str(tmp_path))


def test_a_device_that_is_no_pipe_is_read_like_a_file():
    """/dev/null, which no event loop can watch, is an empty list."""
    with pytest.raises(ConfigurationError, match="/dev/null holds no ids"):
        list(open_ids("/dev/null"))


async def test_a_pipe_is_read_without_blocking_the_event_loop(tmp_path):
    """While the writer pauses other tasks run, and no id is lost."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    came, others_ran = asyncio.Event(), threading.Event()
    ids = []

    def write():
        with path.open("w") as pipe:
            pipe.write("1\n2")
            pipe.flush()
            others_ran.wait(10)  # only another task of the same loop ends this
            pipe.write("3\n4\n")

    async def others():
        await came.wait()
        others_ran.set()

    writer = threading.Thread(target=write)
    writer.start()
    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        group.create_task(others())
        async for course_id in open_ids(str(path)):
            ids.append(course_id)
            came.set()
    writer.join()
    assert ids == ["1", "23", "4"]
    assert others_ran.is_set()


async def test_a_fifo_may_be_opened_by_its_writer_later(tmp_path):
    """Neither opening nor reading it holds up the event loop, and no writer is not the end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    ids = aiter(open_ids(str(path)))
    first = asyncio.ensure_future(anext(ids))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not first.done()
    with path.open("w") as pipe:
        pipe.write("1\n2")
    async with asyncio.timeout(300):
        assert [await first, *[course_id async for course_id in ids]] == ["1", "2"]


async def test_a_pipe_is_left_as_it_was_found():
    """Reading in an event loop does not leave a shared descriptor non-blocking behind."""
    reading, writing = os.pipe()
    os.write(writing, b"1\n2\n")
    os.close(writing)
    ids = _from_descriptor(os.dup(reading), IdReader("stdin"))
    assert [course_id async for course_id in ids] == ["1", "2"]
    assert os.get_blocking(reading)
    os.close(reading)


async def test_a_pipe_that_is_left_early_is_closed():
    """Who takes only some ids leaves no descriptor and no reader behind."""
    reading, writing = os.pipe()
    os.write(writing, b"1\n2\n")
    async with aclosing(aiter(_from_descriptor(reading, IdReader("stdin")))) as ids:
        assert await anext(ids) == "1"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    await asyncio.sleep(0)  # the transport closes in the loop's next turn
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"3\n")
    os.close(writing)
