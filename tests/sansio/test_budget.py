"""An allowance: so many at once, so many in each second."""

from __future__ import annotations

import pytest

from tsstream._sansio.budget import Budget


@pytest.mark.parametrize(
    ("times", "allowed"),
    [
        ([0.0] * 3, [True, True, True]),
        ([0.0] * 4, [True, True, True, False]),
        ([0.0, 0.0, 0.0, 0.5, 0.5], [True, True, True, True, False]),
        ([100.0] * 4, [True, True, True, False]),
        ([n / 2 for n in range(100)], [True] * 100),
    ],
)
def test_events_are_allowed_as_far_as_the_budget_goes(
    times: list[float], allowed: list[bool]
) -> None:
    budget = Budget(size=3, refill=2, now=0.0)
    assert [budget.spend(now) for now in times] == allowed
