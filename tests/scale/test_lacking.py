"""What a cluster lacks is said in words, with what to do, before the server hears anything."""

import logging
import os
import shutil
import subprocess
import sys
from fcntl import LOCK_EX, flock

import pytest
from clusters import check_whole, running
from commands import fetch

from bulkfetch.cli import main
from bulkfetch.testing import SimulatedServer, Simulation

pytest.importorskip("distributed")
SIMULATION = Simulation(courses=8, rows=(0, 3))


def can_mount():
    """Whether a process may have a view of the file system of its own."""
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(
            ["unshare", "-m", "true"], capture_output=True, check=False
        ).returncode
    )


mounts = pytest.mark.skipif(not can_mount(), reason="no unshare -m here: not root, or not Linux")


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """The token, a short patience with who does not answer, and logging left as it was."""
    from bulkfetch._scale import looks

    for name in [name for name in os.environ if name.startswith("BULKFETCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BULKFETCH_TOKEN", "simulated-token")
    logger = logging.getLogger("bulkfetch")
    before = logger.handlers[:], logger.level
    yield lambda: monkeypatch.setattr(looks, "_CONNECT_SECONDS", 0.2)
    logger.handlers[:] = before[0]
    logger.setLevel(before[1])


@pytest.fixture
def refused(server, tmp_path, capfd):
    """Run a fetch that must not come to a request; returns its exit code and its words."""

    def run(address, *more, output=tmp_path / "out.ndjson"):
        asked = server.counters.requests
        words = fetch(server, output, tmp_path / "ids", "--scheduler", address, *more)
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        assert server.counters.requests == asked
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return ended.value.code, said

    return run


def stranger(folder, *versions):
    """A folder that makes a process believe in other versions, given as NAME-VERSION."""
    for name, _, number in (one.rpartition("-") for one in versions):
        metadata = folder / f"{name}-{number}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return str(folder)


_WITHOUT = """
import sys

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "bulkfetch":
            raise ModuleNotFoundError("No module named 'bulkfetch'", name="bulkfetch")

sys.meta_path.insert(0, Without)
"""


def without_bulkfetch(folder):
    """A folder that makes a process lack bulkfetch."""
    (folder / "sitecustomize.py").write_text(_WITHOUT)
    return str(folder)


@pytest.mark.parametrize(
    ("address", "more", "words", "code"),
    [
        ("tcp://127.0.0.1:9", (), "no Dask scheduler answers at tcp://127.0.0.1:9", 5),
        ("nowhere", (), "nowhere", 2),
        ("http://127.0.0.1:9", (), "write it like tcp://HOST:8786", 2),
        ("local", ("--shards", "0"), "shards is 0: there can be 1 to 10,000", 2),
        ("local", ("--shards", "10001"), "shards is 10001", 2),
        ("local", ("--ordered",), "ordered does not go with shards", 2),
        ("local", ("--limit", "3"), "limit does not go with shards", 2),
        ("local", ("--shard", "0/2"), "shard does not go with shards", 2),
    ],
)
def test_what_is_asked_for(address, more, words, code, refused, settings):
    """No scheduler at the address, no address, a cut that makes no sense."""
    settings()
    found, said = refused(address, *more)
    assert (found, words in said) == (code, True), said


def test_no_worker(cluster, refused, settings):
    """A scheduler alone fetches nothing: run again when it has workers."""
    settings()
    code, said = refused(cluster.address)
    assert code == 5
    assert "has no worker: start some (dask worker tcp://" in said


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        (lambda _: {"token": ""}, "cannot run a shard: no access token"),
        (
            lambda folder: {"PYTHONPATH": stranger(folder, "bulkfetch-9.9.9")},
            "has bulkfetch 9.9.9, here is",
        ),
        (
            lambda folder: {"PYTHONPATH": stranger(folder, "distributed-1.2.3")},
            "runs Dask 1.2.3, here is",
        ),
        (
            lambda folder: {"PYTHONPATH": without_bulkfetch(folder)},
            "lacks bulkfetch: pip install 'bulkfetch[dask]==",
        ),
    ],
    ids=["token", "version", "dask", "bulkfetch"],
)
def test_a_worker_that_lacks_something(lack, words, cluster, refused, tmp_path):
    """One worker among them is enough; its address is named."""
    worker = cluster.add_worker(**lack(tmp_path))
    code, said = refused(cluster.address)
    cluster.kill(worker)
    assert (code, words in said) == (2, True), said
    assert "worker tcp://127.0.0.1" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lack", "words"),
    [
        (
            lambda folder: {"PYTHONPATH": stranger(folder, "distributed-1.2.3")},
            "the scheduler at tcp://127.0.0.1",
        ),
        (
            lambda folder: {"PYTHONPATH": without_bulkfetch(folder)},
            "the scheduler lacks bulkfetch: pip install 'bulkfetch[dask]==",
        ),
    ],
    ids=["dask", "bulkfetch"],
)
def test_a_scheduler_that_lacks_something(lack, words, refused, tmp_path):
    """Another Dask, or none of the code that paces the shards."""
    with running(tmp_path, **lack(tmp_path)) as cluster:
        cluster.add_worker(PYTHONPATH="")
        code, said = refused(cluster.address)
    assert (code, words in said) == (2, True), said


@mounts
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("mount -t tmpfs none {parts}", "cannot be opened (No such file or directory)"),
        (
            "mount --bind {parts} {parts} && mount -o remount,ro,bind {parts}",
            "cannot be opened (Read-only file system)",
        ),
        (  # reads what the client wrote, but writes, and locks, what is only here
            "mount -t overlay none -o lowerdir={parts},upperdir={up},workdir={work} {parts}",
            "does not reach here: use a file system with working locks",
        ),
    ],
    ids=["elsewhere", "read-only", "without-locks"],
)
def test_a_worker_without_the_folder(mount, words, cluster, refused, tmp_path):
    """The folder of the parts is not the client's, is read-only, or has its own locks."""
    places = {name: tmp_path / name for name in ("up", "work", "out.ndjson.parts")}
    for place in places.values():
        place.mkdir()
    script = mount.format(**places, parts=places["out.ndjson.parts"])
    before = ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh")
    worker = cluster.add_worker(before=before)
    code, said = refused(cluster.address)
    cluster.kill(worker)
    assert (code, words in said) == (2, True), said


@pytest.mark.parametrize(
    ("held", "text", "words"),
    [
        (True, "nonce", None),
        (False, "nonce", "does not reach here: use a file system with working locks"),
        (True, "of another run", "is not the file that the client wrote: share one folder"),
        (True, None, "cannot be opened (No such file or directory): share the output's folder"),
    ],
)
def test_the_look_at_a_folder(held, text, words, tmp_path):
    """The very file is there, and the lock that the client holds on it is seen."""
    from bulkfetch._scale.worker import look_at_folder

    path = tmp_path / "sharing"
    if text is not None:
        path.write_text(text)
    with (path if text is not None else tmp_path / "other").open("a") as file:
        if held:
            flock(file, LOCK_EX)
        found = look_at_folder(str(path), "nonce")
    assert found is None if words is None else words in found


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_another_endpoint(count, cluster, server, refused, tmp_path):
    """What the parts hold of one account is not mixed with another's, in the same cut or not."""
    from bulkfetch import Options, shards

    options = Options(endpoint=server.endpoint)
    job = shards.plan(server.course_ids, tmp_path / "out.ndjson", options, 2)[0]
    shards.run_shard(job)
    worker = cluster.add_worker()
    more = ("--endpoint", "https://other.example/soap", "--shards", count)
    code, said = refused(cluster.address, *more)
    cluster.kill(worker)
    assert code == 2, said
    assert "was begun with endpoint '127.0.0.1" in said
    assert "this run has 'other.example" in said


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")
def test_a_full_disk_on_one_worker(cluster, server, tmp_path, capfd):
    """A worker that cannot write ends the run with 6 and its address; the others' parts stay."""
    out = tmp_path / "out.ndjson"
    words = fetch(server, out, tmp_path / "ids", "--scheduler", cluster.address, "--shards", 2)
    full = cluster.add_worker(before=("sh", "-c", 'ulimit -f 1 && exec "$@"', "sh"))
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    said = capfd.readouterr().err
    cluster.kill(full)
    assert ended.value.code == 6, said
    assert "raise its limit (ulimit -f)" in said
    assert "worker tcp://127.0.0.1" in said
    good = cluster.add_worker()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    cluster.kill(good)
    assert ended.value.code == 0, capfd.readouterr().err
    check_whole(server, out)


def test_more_shards_than_ids(cluster, server, tmp_path, capfd):
    """Up to ten thousand; those that no id falls into are not begun."""
    out = tmp_path / "out.ndjson"
    words = fetch(server, out, tmp_path / "ids", "--scheduler", cluster.address, "--shards", 10_000)
    worker = cluster.add_worker()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    cluster.kill(worker)
    assert ended.value.code == 0, capfd.readouterr().err
    check_whole(server, out)
