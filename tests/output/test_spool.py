"""The rows of a course: the same in memory and in a file, private, and gone when freed."""

import errno
import gc
import os
from pathlib import Path

import orjson
import pytest

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.model import FinalStatus
from bulkfetch._output import spool as _rows
from bulkfetch._output.spool import Spool


def line(number, **more):
    row = {"contentItemId": "1", "userId": f"u{number}", "status": "Passed", "progress": 45.22}
    return orjson.dumps(row | more) + b"\n"


def filled(directory=None, *, bound=1 << 20, rows=100, each=3):
    spool = Spool(directory, bound=bound)
    for at in range(0, rows, each):
        numbers = range(at, min(at + each, rows))
        spool.append(b"".join(map(line, numbers)), len(numbers))
    return spool


@pytest.mark.parametrize("bound", [0, 1, 200, 1000, 1 << 20])
def test_rows_wherever_they_are(tmp_path, bound):
    """Number, bytes and rows do not depend on the bound, and can be read any number of times."""
    spool = filled(str(tmp_path), bound=bound)
    expected = b"".join(map(line, range(100)))
    for _ in range(2):
        assert len(spool) == 100
        assert spool.nbytes == len(expected)
        assert b"".join(spool.ndjson()) == expected
        rows = list(spool)
        assert [row.user_id for row in rows] == [f"u{number}" for number in range(100)]
        assert rows[0] == FinalStatus("1", "u0", "Passed", 45.22)
    assert not list(tmp_path.iterdir())
    spool.close()


def test_rows_across_blocks(tmp_path, monkeypatch):
    """A row that two blocks of the file share is read whole, and no block is larger than said."""
    monkeypatch.setattr(_rows, "_PIECE", 64)
    spool = filled(str(tmp_path), bound=500)
    assert len(list(spool)) == 100
    assert max(map(len, spool.ndjson())) <= 500
    spool.close()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"contentItemId": "1", "userId": "u"}, FinalStatus("1", "u", None, None)),
        (
            {"contentItemId": "1", "userId": "u", "status": None, "lastViewDate": "x", "n": [1]},
            FinalStatus("1", "u", None, None, {"lastViewDate": "x", "n": [1]}),
        ),
    ],
)
def test_fields(row, expected):
    """A field that is left out is None; what the documentation does not name is in `extra`."""
    spool = Spool()
    spool.append(orjson.dumps(row) + b"\n", 1)
    assert list(spool) == [expected]


@pytest.mark.parametrize("bound", [10, 1 << 20])
def test_clear_begins_again(tmp_path, bound):
    """After `clear` there are only the rows added since."""
    spool = filled(str(tmp_path), bound=bound)
    spool.clear()
    assert (len(spool), spool.nbytes, list(spool)) == (0, 0, [])
    spool.append(line(7), 1)
    assert b"".join(spool.ndjson()) == line(7)
    spool.close()


@pytest.mark.parametrize("bound", [10, 1 << 20])
def test_closed_rows_are_an_error(tmp_path, bound):
    """Rows read after `close` raise, so that no closed course is committed as empty."""
    spool = filled(str(tmp_path), bound=bound)
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        list(spool.ndjson())


def descriptors():
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_private_and_without_a_name(tmp_path):
    """The file has mode 0600 under any umask, and no name that a kill could leave."""
    before = os.umask(0)
    try:
        spool = filled(str(tmp_path), bound=10)
    finally:
        os.umask(before)
    info = os.fstat(spool._file._fd)
    assert (info.st_mode & 0o777, info.st_nlink) == (0o600, 0)
    assert info.st_dev == tmp_path.stat().st_dev
    spool.close()


def test_dropped_without_close(tmp_path):
    """A spool that is dropped gives its descriptor back, without a warning."""
    before = descriptors()
    spool = filled(str(tmp_path), bound=10)
    assert descriptors() != before
    del spool
    gc.collect()
    assert descriptors() == before


def test_full_disk(tmp_path, monkeypatch):
    """A disk that is full while rows are put aside is an OutputError that says where."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    spool = Spool(str(tmp_path), bound=10)
    with pytest.raises(OutputError, match=f"file in {tmp_path}: the disk is full"):
        spool.append(line(1), 1)
    spool.close()
    with pytest.raises(OutputError, match=r"in /tmp.*disk is full"):
        Spool(bound=10).append(line(1), 1)


def test_no_folder(tmp_path):
    """A folder that is missing is an OutputError too."""
    with pytest.raises(OutputError, match="create the folder first"):
        Spool(str(tmp_path / "nowhere"), bound=10).append(line(1), 1)


def test_unreadable(tmp_path, monkeypatch):
    """So is a file that cannot be read back."""

    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    spool = filled(str(tmp_path), bound=10)
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OutputError, match="read rows back"):
        list(spool)
    spool.close()


def test_short_writes(tmp_path, monkeypatch):
    """A write that takes less than all is followed by others."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    spool = filled(str(tmp_path), bound=10)
    assert b"".join(spool.ndjson()) == b"".join(map(line, range(100)))
    spool.close()
