"""The picture of the demo in the README, made anew from what a terminal is told.

    python tests/demo_picture.py

runs `bulkfetch demo` on a pseudo-terminal and writes `tests/examples/demo.svg`: the bar as it was
when half of the courses were done, then the end. Figures are those of the machine it runs on.
"""

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from commands import COMMAND, environment
from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "examples" / "demo.svg"
COLUMNS, LINES = 120, 40
REDRAWN = re.compile(r"\x1b\[\?25[lh]|(?:\r?\x1b\[2K|\x1b\[1A)+")
"""What ends one drawing of the bar and begins the next."""
SHARE = re.compile(r" (\d+)%")


def told():
    """Run the demo in a folder of its own; return all that its terminal was told."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    with tempfile.TemporaryDirectory() as place:
        process = subprocess.Popen(
            [*COMMAND, "demo"], cwd=place, env=environment(**size), stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        pieces = []
        while piece := read(ours):
            pieces.append(piece)
        assert process.wait() == 0
    return b"".join(pieces).decode().replace("\r\n", "\n")


def read(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # so Linux says that the other side was closed
        return b""


def picture(said):
    """Return as SVG the lines before the bar, the bar at its half, and the lines after it."""
    before, *drawings, after = [part for part in REDRAWN.split(said) if part.strip()]
    shares = [int(found[1]) if (found := SHARE.search(one)) else 0 for one in drawings]
    half = drawings[min(range(len(shares)), key=lambda place: abs(shares[place] - 55))]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    text = f"$ bulkfetch demo\n{before.strip()}\n{half.strip()}\n      (while it runs, then:)\n"
    for line in (text + after.strip()).split("\n"):
        shown = Text.from_ansi(line)
        shown.truncate(COLUMNS, overflow="ellipsis")
        console.print(shown)
    return console.export_svg(title="bulkfetch demo")


if __name__ == "__main__":
    sys.exit(0 if PICTURE.write_text(picture(told()), "utf-8") else 1)
