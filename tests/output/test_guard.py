"""Nothing that a run reads or keeps, and nothing of a stranger, is overwritten by an option."""

import os
import stat

import pytest
from outputs import commit_to, course

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._output.guard import guard, new_file
from bulkfetch._output.journaled import JournaledFile


def make_output(path):
    sink = JournaledFile(path, fingerprint={}, run_id="r")
    sink.open()
    commit_to(sink, [course("c1", [("u", "Passed", 1.0)])])
    sink.finish({})
    sink.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ids.txt", "is the list of ids"),
        ("./ids.txt", "is the list of ids"),
        ("hard", "is the list of ids"),
        ("link", "is the list of ids"),
        ("out.ndjson", "belongs to the output .*out.ndjson"),
        ("out.ndjson.part", "belongs to the output"),
        ("out.ndjson.journal", "belongs to the output"),
        ("out.ndjson.failed.ndjson", "belongs to the output"),
        ("out.ndjson.manifest.json", "belongs to the output"),
        ("elsewhere", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        ("folder", "is a folder"),
        ("fifo", "is no regular file"),
        ("theirs", "was not made by this command"),
    ],
)
def test_f124_refused(tmp_path, name, words):
    """Each says what stands there, and to name another file; nothing is touched."""
    make_output(tmp_path / "out.ndjson")
    ids = tmp_path / "ids.txt"
    ids.write_text("c1\n")
    (tmp_path / "hard").hardlink_to(ids)
    (tmp_path / "link").symlink_to("ids.txt")
    (tmp_path / "elsewhere").symlink_to("theirs")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "theirs").write_text("diary")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match=f"{words}.*name"):
        guard(f"{tmp_path}/{name}", used={str(ids): "the list of ids"}, mine=lambda head: not head)


def test_another_users_file(tmp_path, monkeypatch):
    """A file of another user is refused."""
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 4321, -1) if os.geteuid() == 0 else pytest.skip("needs root")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match="another user"):
        guard(f"{tmp_path}/file", used={})


@pytest.mark.parametrize("before", [None, b"", b"mine"])
def test_allowed(tmp_path, before):
    """A new name, an empty file, and what this command made earlier may be written to."""
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    guard(str(path), used={}, mine=lambda head: head == b"mine")


def test_f129_a_new_file_is_private_and_whole(tmp_path):
    """It is of mode 0600 whatever the umask and whatever was there, and there only when whole."""
    path = tmp_path / "page.html"
    path.write_bytes(b"old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        with new_file(str(path)) as write:
            write([b"new"])
            assert path.read_bytes() == b"old"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TypeError), new_file(str(path)) as write:
        write([b"newer", None])
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["rows.ndjson.gz", "ROWS.NDJSON.GZ"])
def test_compressed_by_its_name(tmp_path, name):
    """A name that ends in .gz, in capitals too, is compressed."""
    import gzip

    with new_file(f"{tmp_path}/{name}") as write:
        write([b"rows\n"])
    assert gzip.decompress((tmp_path / name).read_bytes()) == b"rows\n"
