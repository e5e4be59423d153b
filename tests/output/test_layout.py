"""The files of an output: which of them holds the data, and the words for a disk that says no."""

import errno
from pathlib import Path

import pytest

from bulkfetch._domain.errors import OutputError
from bulkfetch._output.layout import Layout, failure, failures, locate

LAYOUT = Layout("/d/out.ndjson")


@pytest.mark.parametrize(
    ("path", "output", "directory"),
    [
        ("out.ndjson", "out.ndjson", "."),
        ("./a/out.ndjson", "a/out.ndjson", "a"),
        (Path("/d/out.ndjson"), "/d/out.ndjson", "/d"),
        ("/d/out/", "/d/out", "/d"),
    ],
)
def test_names(path, output, directory):
    """All names begin with the output's whole name and lie in its folder."""
    layout = Layout.of(path)
    assert (layout.output, layout.directory) == (output, directory)
    assert [layout.part, layout.journal, layout.failed, layout.manifest] == [
        f"{output}.part",
        f"{output}.journal",
        f"{output}.failed.ndjson",
        f"{output}.manifest.json",
    ]


@pytest.mark.parametrize(
    ("part", "output", "started", "complete", "replaces", "place"),
    [
        (True, False, False, False, False, "part"),  # killed before the first commit
        (True, False, True, False, False, "part"),  # killed later
        (True, False, True, True, False, "part"),  # killed before the rename
        (True, True, True, True, True, "part"),  # likewise, over an older output
        (False, True, True, True, False, "output"),  # published
        (False, True, False, True, False, "output"),  # published, without a row
        (False, True, True, True, True, "output"),  # published over an older output
        (False, False, False, False, False, "new"),  # power cut before the folder was synced
        (False, True, False, False, True, "new"),  # likewise, beside an older output
        (True, True, True, False, False, "move it away"),
        (True, True, True, True, False, "move it away"),
        (False, True, True, False, False, "output"),  # published, its last line torn
        (False, True, False, False, False, "move it away"),
        (False, False, True, False, False, "bring them back"),
        (False, False, False, True, False, "bring them back"),
        (False, True, True, False, True, "output"),  # likewise, over an older output
    ],
)
def test_where_the_data_are(part, output, started, complete, replaces, place):
    """Each state that a kill can leave has its answer; any other is refused with a remedy."""
    facts = {
        "part": part,
        "output": output,
        "started": started,
        "complete": complete,
        "replaces": replaces,
    }
    if place in {"part", "output", "new"}:
        assert locate(LAYOUT, **facts) == place
    else:
        with pytest.raises(OutputError, match=f"{place}.*--overwrite"):
            locate(LAYOUT, **facts)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x"), "cannot write: the disk is full: free some space, then run"),
        (OSError(errno.EIO, "x"), "cannot write: the disk reports an error"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files: set it right"),
        (OSError("odd"), "cannot write: odd"),
    ],
)
def test_words(error, words):
    """An error says what failed, why, and what to do."""
    assert words in str(failure(error, "write"))


def test_other_errors_come_out_as_they_are():
    """Only an error of the operating system is put into words; its cause is kept."""
    cause = OSError(errno.EROFS, "Read-only file system")
    with pytest.raises(OutputError) as caught, failures("write"):
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(KeyError), failures("write"):
        raise KeyError
