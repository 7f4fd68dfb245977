"""Nothing that a client sends ends the server, as far as chance finds it (see ``fuzz.py``)."""

from __future__ import annotations

import os

import pytest
from conversation import converse
from fuzz_talks import TALKS, Talk
from fuzzing import fuzz
from hostile_app import hostile_app
from mutations import make_input
from wire import open_guarded

INPUTS = int(os.environ.get("TSSTREAM_FUZZ_INPUTS", "2000"))
SEED = int(os.environ.get("TSSTREAM_FUZZ_SEED", "0"))


@pytest.mark.timeout(60 + INPUTS * 0.06)
@pytest.mark.parametrize("half_close", [False, True])
async def test_no_mutation_ends_the_server_or_alarms_anybody(half_close: bool) -> None:
    assert await fuzz(SEED, range(INPUTS), half_close) == []


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: f"{talk.kind} {talk.name}")
async def test_what_is_mutated_is_valid(talk: Talk) -> None:
    async with open_guarded(hostile_app) as port:
        answer = await converse(port, talk.units, talk.check.holds)
    assert talk.check.holds(answer), f"expected {talk.check.text}, not {answer.data!r}"


def test_an_input_can_be_made_again() -> None:
    assert make_input(1, 2) == make_input(1, 2) != make_input(2, 2)
