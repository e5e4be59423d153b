"""A PostgreSQL server of the tests' own: in a folder of its own, on a loopback port, and no more.

It runs as an unprivileged user, since PostgreSQL refuses root, and ends with this process.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import psycopg

PASSWORD = "pass-word'\\ %"
USER = "loader"


def binaries():
    """Return the folder of initdb and postgres, the newest; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found += [Path(name) for name in [shutil.which("initdb")] if name]
    return found[-1].parent if found else None


def why_no_server():
    if binaries() is None:
        return "PostgreSQL's server is not here: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses root, and there is no setpriv to become somebody else"
    return None


class Server:
    """The running server."""

    def __init__(self, port):
        self.port = port
        self.url = f"postgresql://{USER}@127.0.0.1:{port}/postgres"

    def connect(self, **more):
        return psycopg.connect(self.url, password=PASSWORD, autocommit=True, **more)

    def rows(self, query, *values):
        with self.connect() as connection:
            return connection.execute(query, values).fetchall()

    def execute(self, query):
        with self.connect() as connection:
            connection.execute(query)


@contextlib.contextmanager
def running():
    """Start a server; it is stopped at the end, at the latest with this process."""
    folder = Path(tempfile.mkdtemp(prefix="bulkfetch-pg-", dir="/tmp"))
    try:
        become = _become(folder)
        (folder / "password").write_text(PASSWORD)
        _give(folder)
        tools = binaries()
        subprocess.run(
            [
                *become, tools / "initdb", "-D", folder / "data", "-U", USER, "-A",
                "scram-sha-256", "--pwfile", folder / "password", "-E", "UTF8", "--no-sync",
                "--locale=C",
            ],
            check=True, capture_output=True, cwd="/", timeout=300,
        )  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "lc_messages": "C",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with subprocess.Popen(
            [*become, tools / "postgres", "-D", folder / "data", *words],
            stderr=subprocess.PIPE, text=True, cwd="/",
        ) as process:  # fmt: skip
            try:
                for line in process.stderr:
                    if "ready to accept connections" in line:
                        break
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield Server(port)
            finally:
                process.send_signal(3)  # SIGQUIT: at once
                process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _become(folder):
    """The words before a command that make it run as somebody unprivileged."""
    if os.geteuid() != 0:
        return []
    user = _somebody()
    words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    words += ["--pdeathsig=QUIT"]
    if not Path("/etc/passwd").stat().st_mode & 0o004:
        # initdb wants to know its user's name: show it a readable copy, and nobody else.
        copy = folder / "passwd"
        shutil.copy("/etc/passwd", copy)
        copy.chmod(0o644)
        script = 'mount --bind "$0" /etc/passwd && exec "$@"'
        words = ["unshare", "--mount", "sh", "-c", script, str(copy), *words]
    return words


def _give(folder):
    if os.geteuid() == 0:
        user = _somebody()
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)


def _somebody():
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise LookupError("neither postgres nor nobody is a user here")
