"""Hooks of an embedding program: together, in order, and never async."""

from functools import partial

import pytest

from bulkfetch import Attempt, ConfigurationError, Hooks


async def coroutine(told):
    """Nobody awaits it."""


async def generator(told):
    yield told


class Callable:
    async def __call__(self, told):
        """Nobody awaits it."""


NAMES = ("outcome", "attempt", "wait", "commit")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (coroutine, "is async"),
        (generator, "is async"),
        (Callable(), "is async"),
        (Callable().__call__, "is async"),
        (partial(partial(coroutine), 1), "is async"),
        (7, "cannot be called"),
    ],
)
def test_a_hook_that_would_never_run_is_refused_at_once(name, hook, words):
    """What would have to be awaited, or cannot be called, is an error where it is given."""
    with pytest.raises(ConfigurationError, match=rf"the hook {name}=.*{words}"):
        Hooks(**{name: hook})


@pytest.mark.parametrize("name", NAMES)
def test_two_are_told_in_order(name):
    """`a | b` calls those of both, first a; what only one has is called alone."""
    heard = []
    first, second = (Hooks(**{name: partial(heard.append)}) for _ in range(2))
    ordered = Hooks(**{name: lambda told: heard.append(("a", told))}) | Hooks(
        **{name: lambda told: heard.append(("b", told))}
    )
    getattr(ordered, name)(1)
    assert heard == [("a", 1), ("b", 1)]
    assert first | Hooks() == first == Hooks() | first
    assert (first | second) != first


def test_what_a_hook_raises_comes_out():
    """The second is not told what the first could not bear."""
    heard = []

    def fail(told):
        raise ValueError("no")

    both = Hooks(attempt=fail) | Hooks(attempt=heard.append)
    with pytest.raises(ValueError, match="no"):
        both.attempt(Attempt("a", 1, 0.1, None))
    assert heard == []


def test_only_hooks_can_be_joined():
    """Anything else is a TypeError."""
    with pytest.raises(TypeError):
        Hooks() | None
