"""Ids one by one: each once, none that is settled, none before it is asked for."""

import asyncio
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import ConfigurationError
from bulkfetch._ids.check import check_id
from bulkfetch._ids.source import Source


async def all_of(source):
    found = []
    while (pulled := await source.next()) is not None:
        found.append(pulled)
    source.close()
    return found


async def gently(ids):
    for course_id in ids:
        await asyncio.sleep(0)
        yield course_id


async def gently_never(ids):
    """An async generator that never lets go of the loop by itself."""
    for course_id in ids:
        yield course_id


class Everything:
    def __contains__(self, course_id):
        return True


def is_id(text):
    try:
        return check_id(text) == text
    except ValueError:
        return False


ids = st.lists(st.text("abc", min_size=1, max_size=3), max_size=60)


@given(
    given=ids,
    settled=st.frozensets(st.text("abc", min_size=1, max_size=3)),
    last=st.frozensets(st.text("abc", min_size=1, max_size=2)),
    limit=st.none() | st.integers(0, 40),
)
def test_each_wanted_id_once_in_order(given, settled, last, limit):
    """First occurrences of what is not settled, what failed before last, up to the limit."""
    source = Source(given, settled, limit, last=last)
    found = asyncio.run(all_of(source))
    wanted = [one for one in dict.fromkeys(given) if one not in settled]
    wanted.sort(key=last.__contains__)
    assert found == list(enumerate(wanted[:limit], 1))
    assert source.given == len(found)
    assert source.limited == (len(found) < len(wanted))
    if not source.limited:
        assert source.seen == len(given)
        assert source.skipped == sum(one in settled for one in given)
        assert source.duplicates == len(given) - source.skipped - len(wanted)


@given(given=st.lists(st.text(max_size=5).filter(is_id), max_size=80), count=st.integers(1, 7))
def test_shards_are_disjoint_and_together_the_list(given, count):
    """Each id is in one shard, in order; every shard looks at all, and counts its own repeats."""
    found, repeated = [], 0
    for index in range(count):
        source = Source(given, shard=(index, count))
        mine = [one for _, one in asyncio.run(all_of(source))]
        assert mine == [one for one in dict.fromkeys(given) if one in mine]
        assert source.seen == len(given)
        found += mine
        repeated += source.duplicates
    assert sorted(found) == sorted(set(given))
    assert repeated == len(given) - len(found)


@given(one=st.text(min_size=1, max_size=20).filter(is_id), others=ids, count=st.integers(1, 9))
def test_an_id_is_always_in_the_same_shard(one, others, count):
    """What else is in the list, and where it stands, makes no difference."""

    def shard_of(given):
        sources = [Source(given, shard=(index, count)) for index in range(count)]
        found = [[pulled[1] for pulled in asyncio.run(all_of(source))] for source in sources]
        return [one in ids for ids in found]

    assert shard_of([one]) == shard_of([*others, one]) == shard_of([one, *others])


@pytest.mark.parametrize(
    ("course_id", "shard"),
    [("265f433a-6214-11e9-b9cf-7ef279cfa744", 1), ("1", 3), ("жé☃", 5)],
)
async def test_the_shard_of_an_id_is_the_same_in_every_version(course_id, shard):
    """crc32 of the UTF-8 bytes modulo the number: parts of two machines and years fit together."""
    assert await Source([course_id], shard=(shard, 10)).next() == (1, course_id)


async def test_shards_have_about_the_same_size():
    """Of 20,000 ids each of 8 shards gets an eighth, within 7 %."""
    for make in (str, "course-{:08}".format, lambda number: str(uuid.UUID(int=number * 7919))):
        for index in range(8):
            source = Source(map(make, range(20_000)), shard=(index, 8))
            await all_of(source)
            assert source.given == pytest.approx(2_500, rel=0.07)


@pytest.mark.parametrize("make", [list, tuple, set, iter, gently, dict.fromkeys])
async def test_any_iterable(make):
    """Whatever can be iterated, at once or asynchronously."""
    found = await all_of(Source(make(["b", "a"])))
    assert sorted(course_id for _, course_id in found) == ["a", "b"]


async def test_an_async_generator_serves_one_at_a_time():
    """Many workers may ask at once: each id goes to one of them."""
    source = Source(gently([f"c{number}" for number in range(100)]))
    pulled = await asyncio.gather(*(source.next() for _ in range(120)))
    assert sorted(one for one in pulled if one) == sorted(
        (number + 1, f"c{number}") for number in range(100)
    )
    assert pulled.count(None) == 20


async def test_nothing_is_taken_ahead():
    """An id is pulled when it is asked for, and beyond the limit one, to see that there is more."""
    taken = []

    def watched():
        for number in range(10):
            taken.append(number)
            yield f"c{number}"

    source = Source(watched(), limit=3)
    assert taken == []
    await source.next()
    assert taken == [0]
    await all_of(source)
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "an id is empty"),
        ("a\x00", "control character"),
        ("x" * 257, "257 characters"),
        (None, "an id is None"),
        (5, "an id is 5"),
        (b"c1", "an id is b'c1'"),
    ],
)
@pytest.mark.parametrize("make", [list, gently])
async def test_an_impossible_id(bad, words, make):
    """It raises instead of ending the list or being skipped."""
    source = Source(make(["c1", bad, "c2"]))
    assert await source.next() == (1, "c1")
    with pytest.raises(ConfigurationError, match=words):
        await source.next()
    assert await source.next() == (2, "c2")


def test_a_string_is_no_list():
    """Its letters would be taken for ids."""
    with pytest.raises(ConfigurationError, match="one string"):
        Source("abc")


@pytest.mark.parametrize("make", [list, gently_never])
@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ([f"c{number}" for number in range(50_000)], {"settled": Everything()}),
        (["c1"] * 50_000, {"settled": {"c1"}}),
        (["c1"] * 50_000, {}),
        ([f"c{number}" for number in range(50_000)], {"shard": (0, 50_000)}),
        ([f"c{number}" for number in range(50_000)], {"last": Everything()}),
        ([f"c{number}" for number in range(50_000)], {}),
    ],
    ids=["settled", "one settled", "repeated", "of other shards", "put aside", "wanted"],
)
async def test_whatever_it_looks_at_it_lets_others_run(given, arguments, make):
    """A million ids that are settled, repeated or another shard's do not hold the loop up."""
    source = Source(make(given), **arguments)
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await all_of(source)
    task.cancel()
    assert turns >= 50
    assert source.seen == 50_000


async def test_a_limit_holds_for_async_ids_while_many_workers_ask_at_once():
    """An open pipe is not asked for more ids than the limit, however many workers wait for one."""
    pulled = []

    async def ids():
        for number in range(2):
            pulled.append(number)
            yield str(number)
        await asyncio.Event().wait()

    source = Source(ids(), limit=2)
    async with asyncio.timeout(10):
        given = await asyncio.gather(*(source.next() for _ in range(8)))
    assert sorted(item for item in given if item) == [(1, "0"), (2, "1")]
    assert pulled == [0, 1]
    assert source.limited  # nobody can tell, and nobody waits to know
    source.close()


@pytest.mark.parametrize(
    ("given", "arguments", "limited"),
    [
        ("abc", {"limit": 2}, True),
        ("abc", {"limit": 3}, False),
        ("abc", {"limit": 4}, False),
        ("abbab", {"limit": 2}, False),
        ("abcab", {"limit": 2, "settled": {"c"}}, False),
        ("cab", {"limit": 2, "last": {"c"}}, True),
        ("abc", {"limit": 2, "last": {"c"}}, True),
        ("ca", {"limit": 1, "last": {"a", "c"}}, True),
        ("ca", {"limit": 2, "last": {"a", "c"}}, False),
        ("", {"limit": 0}, False),
        ("a", {"limit": 0}, True),
        ("abc", {}, False),
    ],
)
@pytest.mark.parametrize("make", [list, gently])
async def test_f122_whether_the_limit_cut_the_list_is_known(given, arguments, limited, make):
    """Only one more wanted id makes it cut: not repeats, nor what is settled."""
    source = Source(make(list(given)), **arguments)
    await all_of(source)
    assert source.limited is limited


async def test_an_error_of_the_ids_is_not_taken_for_a_silent_pipe():
    """A TimeoutError of the caller's own iterator comes out, after the limit too."""

    async def ids():
        yield "a"
        raise TimeoutError("mine")

    source = Source(ids(), limit=1)
    assert await source.next() == (1, "a")
    with pytest.raises(TimeoutError, match="mine"):
        await source.next()
