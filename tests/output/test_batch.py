"""From courses to what is committed together."""

from bulkfetch import Failed, Fetched, Refused
from bulkfetch._output import batch
from bulkfetch._output.batch import Batch, Joiner
from bulkfetch._output.spool import Spool


def course(data, course_id="1"):
    spool = Spool()
    spool.append(data, 1)
    return Fetched(course_id, spool, 2, 0.12345)


def test_what_the_journal_says():
    """A batch lists fetched courses with rows, attempts and milliseconds, and those that failed."""
    failed = Failed("b", Refused("unknown-content-item", "Unknown content item"), 3, 1.0)
    batch = Batch.of([course(b"x\n", "a"), failed, course(b"y\n", "c")])
    assert batch.courses == [("a", 1, 2, 0.123), ("c", 1, 2, 0.123)]
    assert [(one.course_id, one.attempts) for one in batch.failed] == [("b", 3)]
    assert batch.pieces is None


def test_small_courses_are_put_together():
    """Their rows follow each other in the order of the courses; large pieces stay as they are."""
    large = course(b"z" * (32 << 10))
    batch = Batch.of([course(b"x\n", "a"), course(b"yy\n", "c"), large, large, course(b"w\n")])
    pieces = batch.gather()
    assert batch.pieces is pieces
    assert b"".join(pieces) == b"x\nyy\n" + b"z" * (64 << 10) + b"w\n"
    assert [len(piece) for piece in pieces] == [5 + (32 << 10), 32 << 10, 2]
    assert list(Batch.of([]).gather()) == []


def test_courses_share_a_block(monkeypatch):
    """Courses share a block up to its size, larger ones are cut, and the memory is used again."""
    monkeypatch.setattr(batch, "BLOCK", 10)
    sizes = [4, 6, 1, 25, 3, 7, 7]
    courses = [course(bytes([65 + at]) * size) for at, size in enumerate(sizes)]
    joiner = Joiner()
    for _ in range(2):
        joined = [bytes(block) for block in joiner.blocks(courses)]
        assert [len(block) for block in joined] == [10, 1, 10, 10, 8, 7, 7]
        assert b"".join(joined) == b"".join(b"".join(each.rows.ndjson()) for each in courses)
    assert list(joiner.blocks([])) == []
