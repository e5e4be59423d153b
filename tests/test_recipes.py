"""The README's recipes for cron, systemd, Kubernetes and shards, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bulkfetch.testing import SimulatedServer, Simulation

ROOT = Path(__file__).parent.parent
COMMAND = f"{sys.executable} -m bulkfetch"


def block(language, begins):
    """The README's block in that language whose text holds these words near its beginning."""
    found = re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    [text] = [one for one in found if begins in one[:200]]
    return text


@pytest.fixture
def nightly(tmp_path):
    """The cron script with this machine's paths, and pauses of nothing."""
    text = block("sh", "/usr/local/bin/nightly-statuses")
    text = text.replace("/usr/local/bin/bulkfetch", COMMAND).replace("1800 1800 0", "0 0 0")
    for place in ("/etc/bulkfetch.toml", "/var/lib/bulkfetch", "/etc/courses.txt"):
        text = text.replace(place, str(tmp_path / Path(place).name))
    (tmp_path / "bulkfetch").mkdir()
    script = tmp_path / "nightly"
    script.write_text(text)
    return script


async def run(script, tmp_path, server, *, token, ids):
    """Run the script as cron does: by sh, with next to no environment."""
    import asyncio

    config = tmp_path / "bulkfetch.toml"
    config.write_text(f'endpoint = "{server.endpoint}"\ntoken = "{token}"\npatience = 0\n')
    config.chmod(0o600)
    (tmp_path / "courses.txt").write_text("\n".join(ids) + "\n")
    words = ["env", "-i", "PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT}", "sh", str(script)]
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("unknown", "token", "code", "words"),
    [
        (0, None, 0, ""),
        (2, None, 1, "exit code 1"),
        (0, "wrong", 4, "token"),
    ],
)
async def test_the_cron_script_says_what_cron_shall_mail(
    unknown, token, code, words, nightly, tmp_path
):
    """Silence when all was fetched; else the log and the exit code, also for failed courses."""
    simulation = Simulation(courses=20, unknown=unknown, rows=(1, 3), seed=2)
    async with SimulatedServer(simulation) as server:
        seen = await run(
            nightly, tmp_path, server, token=token or server.token, ids=server.course_ids
        )
        assert seen[0] == code, seen[1]
        assert words in seen[1]
        assert bool(words) == bool(seen[1])
        if code < 2:
            [out] = (tmp_path / "bulkfetch").glob("????-??-??.ndjson")
            rows = sum(map(len, server.expected().values()))
            assert len(out.read_text().splitlines()) == rows


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_takes_the_units(tmp_path):
    """`systemd-analyze verify` has nothing to say about service and timer."""
    for kind in ("service", "timer"):
        text = block("ini", f"/etc/systemd/system/bulkfetch.{kind}")
        (tmp_path / f"bulkfetch.{kind}").write_text(text)
    words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "bulkfetch.timer")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "bulkfetch" in line]
    assert said == []
    assert done.returncode == 0, done.stderr


def test_kubernetes_takes_the_job():
    """The Job is valid by the API's published schema."""
    validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(block("yaml", "podFailurePolicy"))
    validate.validate(job, validate.latest_version(), strict=True)
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # which a policy needs
    assert rules[0]["onExitCodes"]["values"] == [2, 3, 4, 6]


@pytest.mark.parametrize(
    ("command", "sent", "code"),
    [
        ("exit 0", None, 0),
        ("exit 1", None, 0),
        ("exit 4", None, 4),
        ("exit 5", None, 5),
        ("exec sleep 60", signal.SIGTERM, 143),
    ],
)
def test_the_shell_of_the_job_maps_exit_codes(command, sent, code, tmp_path):
    """Code 1 counts as success, all others stay; SIGTERM reaches the command."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(block("yaml", "podFailurePolicy"))
    [container] = job["spec"]["template"]["spec"]["containers"]
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    fake = tmp_path / "bulkfetch"
    fake.write_text(f"#!/bin/sh\necho > {ready}\n{command}\n")
    fake.chmod(0o755)
    process = subprocess.Popen(
        [*container["command"], *container["args"]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    ready.read_text()
    if sent:
        process.send_signal(sent)
    assert process.wait() == code


def in_parallel(folder):
    """Run GNU parallel's recipe."""
    version = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False)
    if not version.stdout.startswith("GNU parallel"):
        pytest.skip("GNU parallel is not here")
    return [(block("sh", "# GNU parallel"), {"HOME": str(folder)})]


def in_slurm(_folder):
    """Run the script's body for each task of the array, then what the second sbatch runs."""
    text = block("sh", "#SBATCH")
    [merge] = re.findall("--wrap '(.*)'", text)
    tasks = [{"SLURM_ARRAY_TASK_ID": f"{n}", "SLURM_ARRAY_TASK_COUNT": "8"} for n in range(8)]
    return [*((text, task) for task in tasks), (merge, {})]


def in_kubernetes(folder):
    """Run the command line of each pod of the indexed Job, which is valid by the schema."""
    validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(block("yaml", "completionMode: Indexed"))
    validate.validate(job, validate.latest_version(), strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    text = container["args"][0].replace("/config/courses", f"{folder}/ids")
    text = text.replace("/data/", f"{folder}/")
    pods = [(text, {"JOB_COMPLETION_INDEX": str(n)}) for n in range(job["spec"]["completions"])]
    return [*pods, ("bulkfetch merge part-*.ndjson -o statuses.ndjson", {})]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [in_parallel, in_slurm, in_kubernetes])
def test_shards_by_other_schedulers(recipe, tmp_path):
    """Eight shards, each a process of its own, and their merge: all rows, none twice.

    Some courses are unknown: that fails no shard, and the merge says it with 1.
    """
    fake = tmp_path / "bulkfetch"
    fake.write_text(f'#!/bin/sh\nexec {COMMAND} "$@"\n')
    fake.chmod(0o755)
    with SimulatedServer(Simulation(courses=40, unknown=5, rows=(1, 3), seed=2)) as server:
        (tmp_path / "ids.txt").write_text("\n".join(server.course_ids) + "\n")
        kept = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        kept |= {"BULKFETCH_ENDPOINT": server.endpoint, "BULKFETCH_TOKEN": server.token}
        codes = []
        for text, more in recipe(tmp_path):
            words, env = ["sh", "-c", text], kept | more
            done = subprocess.run(words, env=env, cwd=tmp_path, check=False)
            codes.append(done.returncode)
        rows = map(json.loads, (tmp_path / "statuses.ndjson").read_text().splitlines())
        found = Counter((row["contentItemId"], row["userId"]) for row in rows)
        wanted = [(name, row["userId"]) for name, many in server.expected().items() for row in many]
    assert found == Counter(wanted)
    assert codes == [0] * (len(codes) - 1) + [1]


@pytest.mark.slow
def test_airflow_fetches_every_night_anew(tmp_path):
    """The DAG's commands, run for two days: each day asks for every course, each has a file."""
    found = {}
    lines = block("py", "from airflow").partition("with DAG")[0].partition("\n\n")[2]
    exec(lines, found)
    fake = tmp_path / "bulkfetch"
    fake.write_text(f'#!/bin/sh\nexec {COMMAND} "$@"\n')
    fake.chmod(0o755)
    with SimulatedServer(Simulation(courses=12, unknown=5, rows=(1, 3), seed=2)) as server:
        (tmp_path / "ids.txt").write_text("\n".join(server.course_ids) + "\n")
        kept = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        kept |= {"BULKFETCH_ENDPOINT": server.endpoint, "BULKFETCH_TOKEN": server.token}
        commands = [*map(found["FETCH"].format, range(4)), found["MERGE"]]
        assert found["ALL"]["env"] == {"DAY": "{{ ds_nodash }}"}
        asked = []
        for day in ("20261124", "20261125"):
            for text in commands:
                env = kept | {"DAY": day}
                subprocess.run(["sh", "-c", text], env=env, cwd=tmp_path, check=True)
            asked.append(server.counters.requests)
            rows = (tmp_path / f"statuses-{day}.ndjson").read_text().splitlines()
            assert len(rows) == sum(map(len, server.expected().values()))
    assert asked[1] >= asked[0] + len(server.course_ids)


@pytest.mark.parametrize("begins", ["import ray", "from airflow"])
def test_other_recipes_are_python(begins):
    """What needs a cluster's own tools was run by hand; here it is compiled."""
    compile(block("py", begins), begins, "exec")
