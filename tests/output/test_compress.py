"""From rows to the bytes of a file."""

import gzip

import pytest
import zstandard

from bulkfetch._output.compress import codec


def unpack(suffix, data):
    if suffix == ".gz":
        return gzip.decompress(data)
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_members_stand_alone(suffix):
    """Each commit is a member of its own, the same bytes for the same rows, none without rows."""
    pack = codec(f"out.ndjson{suffix}")
    first, second = b"".join(pack([b"row\n" * 50, b"x\n"])), b"".join(pack([b"more\n"]))
    assert b"".join(pack([b"row\n" * 50, b"x\n"])) == first
    assert unpack(suffix, first) == b"row\n" * 50 + b"x\n"
    assert unpack(suffix, first + second) == b"row\n" * 50 + b"x\nmore\n"
    assert list(pack([])) == []
    assert unpack(suffix, b"".join(pack([b""]))) == b""


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_members_are_streamed(suffix):
    """Compressed bytes come out while rows still go in."""
    fed = []

    def rows():
        for number in range(64):
            fed.append(number)
            yield bytes((number * 7919 + at * at) % 251 for at in range(20_000))

    packed = iter(codec(f"x{suffix}")(rows()))
    assert next(packed)
    assert len(fed) < 64
    packed.close()


def test_plain_rows():
    """Any other name is not compressed."""
    assert codec("out.ndjson") is None
