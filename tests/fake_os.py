"""A disk in memory, shaped like `os`: it fails, kills and loses power at a chosen call.

What was written but not synced may be lost or torn in any subset of pages when the power goes, and
so may every change of a name whose directory was not synced. After a kill no further call has any
effect, as befits a process that is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

PAGE = 64


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Inode:
    number: int
    mode: int
    uid: int
    data: bytearray = field(default_factory=bytearray)
    disk: bytes = b""
    pending: list = field(default_factory=list)

    def sync(self):
        self.disk = bytes(self.data)
        self.pending.clear()

    def lose_power(self, rng):
        kept = bytearray(self.disk)
        for kind, at, data in self.pending:
            fate = rng.choice(("whole", "torn", "lost"))
            if fate == "lost":
                continue
            if kind == "cut":
                _cut(kept, at)
                continue
            for offset in range(0, len(data), PAGE):
                if fate == "whole" or rng.random() < 0.5:
                    _put(kept, at + offset, data[offset : offset + PAGE])
        self.data, self.disk = kept, bytes(kept)
        self.pending.clear()


def _cut(data, size):
    del data[size:]
    data.extend(bytes(size - len(data)))


def _put(data, at, piece):
    data.extend(bytes(max(0, at - len(data))))
    data[at : at + len(piece)] = piece


class FakeOS:
    """The state of the disk, the open descriptors, and what is to go wrong.

    `plan` maps (call, n) to what happens at the n-th such call, or at the n-th of any with the name
    "any": an errno, "kill", "torn" (half a write, then a kill) or "short" (half a write).
    """

    def __init__(self, directory="/d"):
        self.directory = directory
        self.inodes = {}
        self.names = {}
        self.disk_names = {}
        self.pending_names = []
        self.restart()

    # What a test does to it

    def restart(self, plan=None):
        """End the process, if any, and count calls from one for the next."""
        self.plan = dict(plan or {})
        self.counts = Counter()
        self.fds = {}
        self.locks = {}
        self.dead = False

    def lose_power(self, rng):
        """Keep what was synced, and of the rest whatever the generator says."""
        for inode in self.inodes.values():
            inode.lose_power(rng)
        names = dict(self.disk_names)
        for change in self.pending_names:
            if rng.random() < 0.5:
                names.update(change)
        self.names = {name: number for name, number in names.items() if number is not None}
        self.disk_names = dict(self.names)
        self.pending_names.clear()
        self.restart()

    def read(self, path):
        return bytes(self.inodes[self.names[path]].data)

    def put(self, path, data, *, mode=0o600):
        """Make a file as another program would."""
        inode = self._create(path, mode)
        inode.data[:] = data
        inode.sync()

    def flip(self, path, bit):
        inode = self.inodes[self.names[path]]
        inode.data[bit // 8] ^= 1 << bit % 8
        inode.sync()

    def snapshot(self):
        return {path: self.read(path) for path in self.names}

    # What a sink does with it

    def open(self, path, flags, mode=0o777):
        self._enter("open")
        if flags & os.O_DIRECTORY:
            if path != self.directory:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return self._descriptor(None)
        if path not in self.names:
            if str(Path(path).parent) != self.directory or not flags & os.O_CREAT:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._create(path, mode)
        return self._descriptor(self.inodes[self.names[path]])

    def close(self, fd):
        self._enter("close")
        inode = self.fds.pop(fd)
        if inode is not None and self.locks.get(inode.number) == fd:
            del self.locks[inode.number]

    def writev(self, fd, blocks):
        action = self._enter("write")
        data = b"".join(blocks)
        taken = data[: (len(data) + 1) // 2] if action in {"short", "torn"} else data
        inode = self.fds[fd]
        inode.pending.append(("write", len(inode.data), taken))
        inode.data.extend(taken)
        if action == "torn":
            self._die()
        return len(taken)

    def pread(self, fd, length, offset):
        self._enter("pread")
        return bytes(self.fds[fd].data[offset : offset + length])

    def fsync(self, fd):
        self._enter("fsync")
        if self.fds[fd] is not None:
            self.fds[fd].sync()
        else:
            self.disk_names = dict(self.names)
            self.pending_names.clear()

    def fdatasync(self, fd):
        self._enter("fdatasync")
        self.fds[fd].sync()

    def ftruncate(self, fd, length):
        self._enter("ftruncate")
        inode = self.fds[fd]
        inode.pending.append(("cut", length, b""))
        _cut(inode.data, length)

    def fchmod(self, fd, mode):
        self._enter("fchmod")
        self.fds[fd].mode = stat.S_IFREG | mode

    def fstat(self, fd):
        self._enter("fstat")
        return _stat(self.fds[fd])

    def lstat(self, path):
        self._enter("lstat")
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _stat(self.inodes[self.names[path]])

    def replace(self, source, target):
        self._enter("replace")
        self._rename({target: self.names[source], source: None})

    def unlink(self, path):
        self._enter("unlink")
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._rename({path: None})

    def flock(self, fd, operation):
        self._enter("flock")
        assert operation == fcntl.LOCK_EX | fcntl.LOCK_NB
        if self.locks.setdefault(self.fds[fd].number, fd) != fd:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))

    def mark(self, fd):
        self._enter("mark")

    # Within

    def _enter(self, name):
        if self.dead:
            raise Killed
        self.counts[name] += 1
        self.counts["any"] += 1
        action = self.plan.get((name, self.counts[name])) or self.plan.get(
            ("any", self.counts["any"])
        )
        if action == "kill" or (action == "torn" and name != "write"):
            self._die()
        if isinstance(action, int):
            raise OSError(action, os.strerror(action))
        return action

    def _die(self):
        self.dead = True
        raise Killed

    def _descriptor(self, inode):
        fd = max(self.fds, default=2) + 1
        self.fds[fd] = inode
        return fd

    def _create(self, path, mode):
        inode = Inode(len(self.inodes) + 1, stat.S_IFREG | mode, os.geteuid())
        self.inodes[inode.number] = inode
        self._rename({path: inode.number})
        return inode

    def _rename(self, change):
        self.pending_names.append(change)
        self.names.update(change)
        self.names = {name: number for name, number in self.names.items() if number is not None}


def _stat(inode):
    return SimpleNamespace(
        st_mode=inode.mode,
        st_size=len(inode.data),
        st_ino=inode.number,
        st_dev=1,
        st_uid=inode.uid,
    )
