"""Servers of other people, run as they come with the system: in the foreground, on loopback.

Where a program is missing the test skips and says so. Each has a folder of its own, in which its
configuration and its logs are, and is gone when the context is left.
"""

import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

ENOUGH = 20.0
"""Seconds after which a server that does not listen is given up."""
APACHE = f"""
ServerName 127.0.0.1
{"User nobody" if os.getuid() == 0 else ""}
ErrorLog error.log
PidFile pid
Mutex file:.
LogLevel warn
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def found(name):
    """The path of a program, which ordinary users may not have in theirs; skips without it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return path or pytest.skip(f"{name} is not installed")


@contextmanager
def listening(port, folder, *command):
    """Run the command while the context is entered, which begins once it listens on the port."""
    with (
        (folder / "said").open("wb") as said,
        subprocess.Popen(command, cwd=folder, stdout=said, stderr=said) as process,
    ):
        try:
            deadline = time.monotonic() + ENOUGH
            while not _accepts(port):
                words = (folder / "said").read_text(errors="replace")
                assert process.poll() is None, f"{command[0]} ended: {words}"
                assert time.monotonic() < deadline, f"{command[0]} does not listen: {words}"
                time.sleep(0.02)
            yield
        finally:
            process.terminate()


def _accepts(port):
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder, server, *, http=""):
    """nginx with these lines for its server, where `PORT` is its own; gives the port."""
    port, config = free_port(), folder / "nginx.conf"
    own = server.replace("PORT", f"127.0.0.1:{port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    config.write_text(
        f"daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error;\n"
        f"events {{}}\nhttp {{\nlog_format status $status;\naccess_log {folder}/statuses status;\n"
        f"{places}{http}\nserver {{\nserver_name lms;\n{own}\n}}\n}}\n"
    )
    with listening(port, folder, found("nginx"), "-e", f"{folder}/error", "-c", str(config)):
        yield port


@contextmanager
def haproxy(folder, rest):
    """haproxy with these lines, where `PORT` is its own; gives the port."""
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(
        "defaults\nmode http\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\n"
        "log stdout format raw local0\nlog-format STATUS=%ST\n"
        f"{rest.replace('PORT', f'127.0.0.1:{port}')}\n"
    )
    with listening(port, folder, found("haproxy"), "-db", "-f", str(config)):
        yield port


@contextmanager
def apache(folder, modules, rest):
    """Apache with these modules and lines, where `PORT` is its own; gives the port."""
    port, config = free_port(), folder / "apache.conf"
    home = Path(os.environ.get("APACHE_MODULES", "/usr/lib/apache2/modules"))
    needed = ["mpm_event", "authz_core", "authn_core", *modules]
    lines = "".join(f"LoadModule {name}_module {home}/mod_{name}.so\n" for name in needed)
    config.write_text(
        f"ServerRoot {folder}\n{lines}{APACHE}{rest.replace('PORT', f'127.0.0.1:{port}')}\n"
    )
    words = ("-D", "FOREGROUND", "-d", str(folder), "-f", str(config))
    with listening(port, folder, found("apache2"), *words):
        yield port


@contextmanager
def stunnel(folder, rest):
    """stunnel with these lines for its one service, where `PORT` is its own; gives the port."""
    port, config = free_port(), folder / "stunnel.conf"
    own = rest.replace("PORT", f"127.0.0.1:{port}")
    config.write_text(f"foreground = yes\npid =\nsyslog = no\n[soap]\n{own}\n")
    with listening(port, folder, found("stunnel"), str(config)):
        yield port


def statuses_of(folder):
    """How often nginx or haproxy answered with each HTTP status, by their own logs."""
    said = (folder / "said").read_text() + (
        (folder / "statuses").read_text() if (folder / "statuses").exists() else ""
    )
    return Counter(
        int(line.removeprefix("STATUS=")) for line in said.split() if line[-3:].isdigit()
    )
