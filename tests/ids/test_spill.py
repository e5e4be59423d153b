"""What is kept of ids that passed: the same in memory and on disk, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkfetch import OutputError
from bulkfetch._ids.source import Source
from bulkfetch._ids.spill import Aside, SeenIds

IDS = [f"c{number}" for number in range(60)] + ["жé☃", "a\u2028b", "a b"]


@pytest.mark.parametrize("most", [1, 10, 1_000])
def test_seen_ids_in_memory_and_on_disk(most):
    """New is new and old is old, before, at and after the move to disk."""
    seen = SeenIds(most=most)
    for repeat in range(2):
        for one in IDS:
            assert seen.add(one) is (repeat == 0)
    seen.close()


@pytest.mark.parametrize("most", [1, 10, 1_000])
def test_ids_put_aside_come_out_in_order(most):
    """All of them, in the order in which they came, whether they were on disk or not."""
    aside = Aside(most=most)
    for one in IDS:
        aside.add(one)
    assert len(aside) == len(IDS)
    assert list(aside) == IDS
    aside.close()


@pytest.mark.parametrize("kept", [SeenIds, Aside])
def test_many_ids_leave_memory(kept):
    """Past the bound next to nothing is kept in memory."""
    ids = kept(most=100)
    for number in range(1_000):
        ids.add(f"c{number}")
    assert len(ids._few) <= 100
    ids.close()


@pytest.mark.parametrize("name", ["plain", "with spaces? %41#", os.fsdecode(b"\xff"), "жé☃"])
@pytest.mark.parametrize("kept", [SeenIds, Aside])
def test_f119_what_spills_lies_without_a_name_beside_the_output(kept, name, tmp_path):
    """In the folder that was named, whatever its name is, on the disk but in no listing."""
    directory = tmp_path / name
    directory.mkdir()
    ids = kept(str(directory), most=10)
    for number in range(20_000):
        ids.add(f"course-{number}")
    held = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert any(one.startswith(str(directory)) and one.endswith("(deleted)") for one in held)
    assert list(directory.iterdir()) == []
    ids.close()


@pytest.mark.parametrize("kept", [SeenIds, Aside])
def test_f119_no_room_for_the_ids_is_said_with_the_folder(kept, tmp_path):
    """An OutputError names where, why, and what to do."""
    ids = kept(str(tmp_path / "gone"), most=0)
    with pytest.raises(OutputError, match=r"ids seen.*gone \(No such file.*make room there"):
        ids.add("c1")


FULL = """
import asyncio, resource, signal, sys
from bulkfetch import OutputError
from bulkfetch._ids.source import Source

async def main():
    ids = (f"course-{number:032}" for number in range(200_000))
    source = Source(ids, last=Everything() if sys.argv[2] == "last" else (), spill=sys.argv[1])
    while await source.next():
        pass

class Everything:
    def __contains__(self, one):
        return True

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    asyncio.run(main())
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("which", ["seen", "last"])
def test_f63_a_full_disk_is_an_error_of_the_disk(which, tmp_path):
    """When the ids outgrow what may be written the run ends in words, not with a wrong set."""
    words = [sys.executable, "-c", FULL, str(tmp_path), which]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
    assert "cannot keep the ids seen in a temporary file" in done.stdout


async def test_f119_130_000_ids_pass_beside_the_output_alone(tmp_path, monkeypatch):
    """Neither the ids seen nor those put aside touch the system's temporary directory."""
    nowhere = str(tmp_path / "read-only")
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setattr("tempfile.tempdir", nowhere)
    ids = [f"c{number}" for number in range(130_000)]
    source = Source(iter(ids), last=frozenset(ids[:60_000]), spill=str(tmp_path))
    found = []
    while pulled := await source.next():
        found.append(pulled[1])
    source.close()
    assert found == ids[60_000:] + ids[:60_000]
