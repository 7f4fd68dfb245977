"""Exception groups: one error leaves as itself, several as the group."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tsstream._util import leaves, unwrapped, unwrapping

a, b, c = ValueError("a"), KeyError("b"), OSError("c")
stop = KeyboardInterrupt()


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("", errors)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (a, [a]),
        (group(a), [a]),
        (group(a, b), [a, b]),
        (group(group(a, b), c), [a, b, c]),
        (group(group(group(a))), [a]),
        (BaseExceptionGroup("", [stop, group(a)]), [stop, a]),
    ],
)
def test_leaves_in_the_order_of_the_groups(
    error: BaseException, found: list[BaseException]
) -> None:
    assert list(leaves(error)) == found


def test_one_leaf_is_unwrapped() -> None:
    assert unwrapped(group(group(a))) is a
    assert unwrapped(a) is a


def test_a_group_of_several_stays() -> None:
    both = group(a, b)
    assert unwrapped(both) is both


@pytest.mark.parametrize("error", [a, stop, group(a, b)])
def test_what_is_not_alone_in_a_group_leaves_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, unwrapping():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [a, stop])
def test_what_is_alone_in_its_group_leaves_as_itself(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, unwrapping():
        raise BaseExceptionGroup("", [BaseExceptionGroup("", [error])])
    assert caught.value is error


def test_without_an_error_nothing_happens() -> None:
    with unwrapping():
        pass


def _plain() -> ValueError:
    return ValueError("own")


def _with_cause() -> ValueError:
    error = ValueError("own")
    error.__cause__ = error.__context__ = a
    return error


@pytest.mark.parametrize("make", [_plain, _with_cause])
def test_the_unwrapped_error_keeps_its_own_cause_and_context(
    make: Callable[[], ValueError],
) -> None:
    error = make()
    context, cause = error.__context__, error.__cause__
    with pytest.raises(ValueError, match=r"^own$") as caught, unwrapping():
        raise group(error)
    assert caught.value.__context__ is context
    assert caught.value.__cause__ is cause
