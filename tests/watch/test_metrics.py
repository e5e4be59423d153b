"""Metrics as Prometheus reads them: its own parser, its own tool, over HTTP and from a file."""

import errno
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import COMMAND, bulkfetch, environment, fetch
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bulkfetch import (
    Attempt,
    Commit,
    Failed,
    Fetched,
    Limiter,
    Options,
    Refused,
    Transient,
    Wait,
    export,
    prometheus_hooks,
)
from bulkfetch._domain.errors import ConfigurationError, OutputError
from bulkfetch._output.spool import Spool
from bulkfetch._watch.metrics import Metrics, MetricsFile, serving
from bulkfetch.testing import ScriptedTransport, SimulatedServer, Simulation, answer, reply, row

SIMULATION = Simulation(courses=30, unknown=2, denied=1, rows=(1, 4), share_503=0.05, seed=2)
PROMTOOL = shutil.which("promtool")


def read(text):
    """Every sample by name and labels, as Prometheus' own parser reads it."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples(metrics):
    return read(generate_latest(metrics.registry).decode())


@pytest.fixture
def metrics():
    return Metrics(Limiter(4))


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


def fed(metrics):
    """Tell the hooks one thing of each kind."""
    hooks = metrics.hooks
    spool = Spool()
    spool.append(b"{}\n{}\n", 2)
    busy = Transient("http-503", "busy")
    hooks.attempt(Attempt("a", 1, 0.2, busy))
    hooks.wait(Wait("a", 1.0, "http-503"))
    hooks.attempt(Attempt("a", 2, 7.0, None))
    hooks.outcome(Fetched("a", spool))
    hooks.outcome(Failed("b", Refused("unknown-content-item", "no")))
    hooks.outcome(Failed("c", busy))
    hooks.commit(Commit(1, 2, 0.03))
    return metrics


def test_what_the_hooks_tell_is_counted(metrics):
    """Courses, rows, requests, retries and durations, each under its name and label."""
    found = samples(fed(metrics))
    expected = {
        ("bulkfetch_courses_total", "fetched"): 1,
        ("bulkfetch_courses_total", "refused"): 1,
        ("bulkfetch_courses_total", "failed"): 1,
        ("bulkfetch_rows_total",): 2,
        ("bulkfetch_requests_total", "ok"): 1,
        ("bulkfetch_requests_total", "http-503"): 1,
        ("bulkfetch_retries_total", "http-503"): 1,
        ("bulkfetch_request_duration_seconds_count",): 2,
        ("bulkfetch_request_duration_seconds_sum",): 7.2,
        ("bulkfetch_request_duration_seconds_bucket", "0.25"): 1,
        ("bulkfetch_request_duration_seconds_bucket", "10.0"): 2,
        ("bulkfetch_commit_duration_seconds_count",): 1,
        ("bulkfetch_in_flight",): 0,
        ("bulkfetch_concurrency_limit",): 4,
    }
    assert found | expected == found


def test_series_are_there_before_they_grow(metrics):
    """Outcomes begin at zero; what has not happened yet (success, exit) is not claimed."""
    found = samples(metrics)
    assert found[("bulkfetch_courses_total", "failed")] == 0
    assert ("bulkfetch_last_success_timestamp_seconds",) not in found
    assert ("bulkfetch_exit_code",) not in found
    assert not [name for name, *_ in found if name.endswith("_created")]


async def test_the_limiter_is_read_when_somebody_looks():
    """Requests under way, the limit and the waits are those of this moment."""
    limiter = Limiter(2, adaptive=False)
    metrics = Metrics(limiter)
    async with limiter:
        assert samples(metrics)[("bulkfetch_in_flight",)] == 1
    limiter.hold(0.001, "Retry-After")
    async with limiter:
        found = samples(metrics)
    assert found[("bulkfetch_wait_seconds_total", "Retry-After")] > 0


def test_two_of_them_share_nothing(metrics):
    """Metrics of two programs in one process are their own: no global registry."""
    fed(metrics)
    assert samples(Metrics(Limiter(1)))[("bulkfetch_rows_total",)] == 0


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
def test_promtool_has_no_complaint(metrics):
    """Names, types and help hold to Prometheus' conventions."""
    fed(metrics).succeeded(1.8e9)
    metrics.exited(0)
    text = generate_latest(metrics.registry)
    command = [PROMTOOL, "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


SERIES = """
rule_files: []
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'bulkfetch_rows_total', values: '0+600x10'}
      - {series: 'bulkfetch_requests_total{result="ok"}', values: '0+90x10'}
      - {series: 'bulkfetch_requests_total{result="http-503"}', values: '0+30x10'}
      - {series: 'bulkfetch_request_duration_seconds_bucket{le="0.25"}', values: '0+98x10'}
      - {series: 'bulkfetch_request_duration_seconds_bucket{le="0.75"}', values: '0+100x10'}
      - {series: 'bulkfetch_request_duration_seconds_bucket{le="+Inf"}', values: '0+100x10'}
      - {series: 'bulkfetch_wait_seconds_total{cause="rate"}', values: '0+120x10'}
      - {series: 'bulkfetch_last_success_timestamp_seconds', values: '-86000x10'}
    promql_expr_test:
"""
ANSWERS = {
    "rows a second": ("{}", 10),
    "share of bad requests": ("{}", 0.25),
    "slowest hundredth": ("{}", 0.5),
    "why it waits": ('{cause="rate"}', 2),
    "no success for a day": ("{}", 86_600),
}


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
def test_the_queries_of_the_readme_answer_their_questions(tmp_path):
    """Over series of known numbers, each gives the number that it says it does."""
    readme = Path(__file__).parents[2] / "README.md"
    line = r"^\| ([a-z ]+) \| `([^`]*bulkfetch_[^`]*)` \|$"
    queries = dict(re.findall(line, readme.read_text(), re.MULTILINE))
    assert queries.keys() == ANSWERS.keys()
    asked = "".join(
        f"      - expr: '{queries[name]}'\n        eval_time: 10m\n"
        f"        exp_samples: [{{labels: '{labels}', value: {value}}}]\n"
        for name, (labels, value) in ANSWERS.items()
    )
    (tmp_path / "queries.yml").write_text(SERIES + asked)
    command = [PROMTOOL, "test", "rules", tmp_path / "queries.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_serving_ends_with_its_context(metrics):
    """The port answers while the context is entered, and is free again afterwards."""
    with serving(fed(metrics), "127.0.0.1:0") as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url) as reply:
            assert read(reply.read().decode()) == samples(metrics)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost:", "a:b", ":70000", ""])
def test_an_address_without_a_port_is_refused(metrics, address):
    """The message shows what was said and how to say it."""
    with (
        pytest.raises(ConfigurationError, match="has no port: write it like 127"),
        serving(metrics, address),
    ):
        pass


def test_a_taken_port_is_a_mistake_in_words(metrics):
    """Another program's port is named, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConfigurationError, match="choose another --metrics-addr"),
            serving(metrics, address),
        ):
            pass


def test_the_last_success_outlives_a_new_run(tmp_path):
    """A new run's file still tells when the one before finished."""
    path = str(tmp_path / "m.prom")
    first = Metrics(Limiter(1))
    file = MetricsFile(first, path)
    first.succeeded(1.8e9)
    file.write()
    MetricsFile(Metrics(Limiter(1)), path)
    text = (tmp_path / "m.prom").read_text()
    assert read(text)[("bulkfetch_last_success_timestamp_seconds",)] == 1.8e9


@pytest.mark.parametrize("text", ["", "{ no metrics", "a 1\n", "\x00"])
def test_a_foreign_file_is_replaced(tmp_path, metrics, text):
    """What was in the file is no obstacle, whatever it is."""
    path = tmp_path / "m.prom"
    path.write_text(text)
    MetricsFile(metrics, str(path))
    assert read(path.read_text()) == samples(metrics)


def test_f134_two_runs_with_one_file_leave_it_whole(tmp_path):
    """Whenever somebody looks, the file is all of one run's, and nothing is left beside it."""
    path = tmp_path / "m.prom"
    both = [Metrics(Limiter(slots)) for slots in (1, 2)]
    files = [MetricsFile(metrics, str(path)) for metrics in both]
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(lambda file=file: [file.write() for _ in range(50)]) for file in files]
        seen = [read(path.read_text()) for _ in range(50)]
    assert [len(end.result()) for end in ends] == [50, 50]
    assert all(one in [samples(metrics) for metrics in both] for one in seen)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_no_mistake_in_the_setting(tmp_path, metrics, monkeypatch, code):
    """It ends the command with 6, as for every other file."""

    def full(*_):
        raise OSError(code, "full")

    monkeypatch.setattr("bulkfetch._watch.metrics.write_to_textfile", full)
    with pytest.raises(OutputError, match=r"cannot write .*m\.prom") as caught:
        MetricsFile(metrics, str(tmp_path / "m.prom"))
    assert caught.value.exit_code == 6


def test_a_file_that_cannot_be_written(tmp_path, metrics, caplog):
    """At first it is a mistake; once the run is on its way, a warning."""
    with pytest.raises(ConfigurationError, match="choose another --metrics-file"):
        MetricsFile(metrics, str(tmp_path / "none" / "m.prom"))
    folder = tmp_path / "folder"
    folder.mkdir()
    file = MetricsFile(metrics, str(folder / "m.prom"))
    shutil.rmtree(folder)
    file.write()
    assert "metrics cannot be written" in caplog.text


async def test_a_real_run_adds_up(tmp_path, server):
    """After an export its metrics are what its summary says."""
    limiter = Limiter(4)
    metrics = Metrics(limiter)
    options = Options(endpoint=server.endpoint, token=server.token, backoff=0.01)
    out = tmp_path / "out.ndjson"
    summary = await export(server.course_ids, out, options, hooks=metrics.hooks, limiter=limiter)
    found = samples(metrics)
    assert found[("bulkfetch_courses_total", "fetched")] == summary.fetched == 30
    assert found[("bulkfetch_courses_total", "refused")] == summary.failed == 3
    assert found[("bulkfetch_rows_total",)] == summary.rows
    assert found[("bulkfetch_request_duration_seconds_count",)] == summary.requests
    retries = {
        name[1]: value for name, value in found.items() if name[0] == "bulkfetch_retries_total"
    }
    assert retries == summary.retries


# The commands


def test_fetch_leaves_a_file_and_a_failing_run_keeps_the_last_success(tmp_path, server):
    """The file tells of the whole run and its exit code; readable by the collector."""
    prom = tmp_path / "bulkfetch.prom"
    arguments = fetch(server, tmp_path / "out.ndjson", tmp_path / "ids", "--metrics-file", prom)
    assert bulkfetch(*arguments).returncode == 1
    found = read(prom.read_text())
    assert found[("bulkfetch_courses_total", "fetched")] == 30
    assert found[("bulkfetch_exit_code",)] == 1
    assert stat.S_IMODE(prom.stat().st_mode) & 0o044
    success = found[("bulkfetch_last_success_timestamp_seconds",)]
    assert success > 1.7e9
    again = bulkfetch(*arguments, "--overwrite", token="wrong")
    assert again.returncode == 4
    found = read(prom.read_text())
    assert found[("bulkfetch_exit_code",)] == 4
    assert found[("bulkfetch_courses_total", "fetched")] == 0
    assert found[("bulkfetch_last_success_timestamp_seconds",)] == success


def test_retry_failed_has_metrics_too(tmp_path, server):
    """Both commands that write an output take the flags, also as variables."""
    bulkfetch(*fetch(server, tmp_path / "out.ndjson", tmp_path / "ids"))
    arguments = ("retry-failed", tmp_path / "out.ndjson", "--endpoint", server.endpoint)
    variables = {"BULKFETCH_METRICS_FILE": str(tmp_path / "m.prom")}
    done = bulkfetch(*arguments, variables=variables)
    assert done.returncode == 1
    assert "no setting" not in done.stderr
    assert read((tmp_path / "m.prom").read_text())[("bulkfetch_courses_total", "refused")] == 3


def test_fetch_can_be_scraped_while_it_runs(tmp_path):
    """A run in progress answers on the port that was asked for, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with SimulatedServer(Simulation(courses=400, latency=0.2)) as slow:
        arguments = fetch(slow, tmp_path / "out", tmp_path / "ids", "--metrics-addr", port)
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        try:
            found = scraped(port)
        finally:
            process.kill()
            process.wait()
    assert found[("bulkfetch_in_flight",)] > 0
    assert 1 <= found[("bulkfetch_concurrency_limit",)] <= 8


def scraped(port):
    """Ask until requests are under way, for at most 20 s."""
    for _ in range(400):
        time.sleep(0.05)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
                found = read(reply.read().decode())
        except OSError:
            continue
        if found[("bulkfetch_in_flight",)]:
            return found
    raise AssertionError("no request was ever under way")


BARE = """import sys
for name in ("prometheus_client", "opentelemetry"):
    sys.modules[name] = None
from bulkfetch.cli import main
main(sys.argv[1:])"""


def test_without_the_packages_all_else_works(tmp_path, server):
    """The extra is asked for in words when it is needed, and never missed when it is not."""
    arguments = [*map(str, fetch(server, tmp_path / "out.ndjson", tmp_path / "ids"))]
    run = [sys.executable, "-c", BARE, *arguments]
    given = {"env": environment(), "capture_output": True, "text": True}
    assert subprocess.run(run, check=False, **given).returncode == 1
    done = subprocess.run([*run, "--metrics-addr", "9464"], check=False, **given)
    assert done.returncode == 2
    assert "pip install 'bulkfetch[metrics]'" in done.stderr


# In an embedding program


async def test_an_embedding_program_counts_in_its_own_registry(tmp_path):
    """The hooks count in the registry that is given, beside its own metrics, run after run."""
    registry, limiter = CollectorRegistry(), Limiter(4)
    Counter("jobs", "Jobs.", registry=registry).inc()
    hooks = prometheus_hooks(registry, limiter=limiter)
    transport = ScriptedTransport([reply(answer([row("u1"), row("u2")]))])
    options = Options(endpoint="https://acme.example/soap", token="t")
    for number in range(2):
        out = tmp_path / f"{number}.ndjson"
        await export(["1"], out, options, transport=transport, hooks=hooks, limiter=limiter)
    found = read(generate_latest(registry).decode())
    assert found["bulkfetch_courses_total", "fetched"] == 2
    assert found["bulkfetch_rows_total",] == 4
    assert found["bulkfetch_concurrency_limit",] == 4
    assert found["jobs_total",] == 1


def test_a_registry_has_the_metrics_once():
    """A second call says in words what to do instead."""
    registry = CollectorRegistry()
    prometheus_hooks(registry)
    with pytest.raises(ConfigurationError, match="call prometheus_hooks once"):
        prometheus_hooks(registry)


def test_without_the_extra_the_words_say_what_to_install(monkeypatch):
    """The public name is there; asking for metrics names the package."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "bulkfetch._watch.metrics", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'bulkfetch\[metrics\]'"):
        prometheus_hooks(None)


def test_the_command_and_an_embedding_program_tell_the_same(metrics):
    """Every metric of the hooks is one of the command's, by name, help and labels."""

    def described(registry):
        lines = generate_latest(registry).decode().splitlines()
        return {line for line in lines if line.startswith("#") and "_created" not in line}

    registry = CollectorRegistry()
    prometheus_hooks(registry, limiter=Limiter(4))
    assert described(registry) <= described(metrics.registry)
