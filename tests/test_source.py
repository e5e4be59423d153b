"""Ids one by one: each once, none that is settled, none before it is asked for."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import ConfigurationError
from bulkfetch._source import SeenIds, Source


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


ids = st.lists(st.text("abc", min_size=1, max_size=3), max_size=60)


@given(
    given=ids,
    settled=st.frozensets(st.text("abc", min_size=1, max_size=3)),
    limit=st.none() | st.integers(0, 40),
)
def test_each_wanted_id_once_in_order(given, settled, limit):
    """First occurrences of what is not settled, in order, numbered from 1, up to the limit."""
    source = Source(given, settled, limit)
    found = asyncio.run(all_of(source))
    wanted = [one for one in dict.fromkeys(given) if one not in settled][:limit]
    assert found == list(enumerate(wanted, 1))
    assert source.given == len(wanted)
    if limit is None:
        assert source.given + source.skipped + source.duplicates == len(given)
        assert source.skipped == sum(one in settled for one in given)


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
    """An id is pulled when it is asked for, and the limit pulls none beyond."""
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
    assert taken == [0, 1, 2]


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


async def test_skipping_lets_others_run():
    """A million settled ids do not hold the loop up."""
    settled = frozenset(f"c{number}" for number in range(50_000))
    source = Source(settled, settled)
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert await source.next() is None
    task.cancel()
    assert turns >= 50
    assert source.skipped == 50_000


@pytest.mark.parametrize("most", [1, 10, 1_000])
def test_seen_ids_in_memory_and_on_disk(most):
    """New is new and old is old, before, at and after the move to disk."""
    seen = SeenIds(most)
    for repeat in range(2):
        for number in range(60):
            assert seen.add(f"c{number}") is (repeat == 0)
    assert seen.add("жé☃") is True
    assert seen.add("жé☃") is False
    seen.close()


def test_seen_ids_stay_small():
    """Past the bound nothing is kept in memory."""
    seen = SeenIds(100)
    for number in range(1_000):
        seen.add(f"c{number}")
    assert len(seen._few) == 0
    seen.close()


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
    source.close()
