"""Every pair of state and event of an exchange, and what its states say."""

from __future__ import annotations

from enum import Enum
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.exchange import (
    Exchange,
    IllegalTransition,
    RequestEvent,
    RequestState,
    ResponseEvent,
    ResponseState,
)

REQUEST = {
    "READING": {
        "CHUNK": "READING",
        "LAST": "COMPLETE",
        "CLOSE": "DISCARDING",
        "DISCONNECT": "GONE",
    },
    "DISCARDING": {
        "CHUNK": "DISCARDING",
        "LAST": "COMPLETE",
        "CLOSE": "DISCARDING",
        "DISCONNECT": "GONE",
    },
    "COMPLETE": {"CLOSE": "COMPLETE", "DISCONNECT": "GONE"},
    "GONE": {"CLOSE": "GONE"},
}
RESPONSE = {
    "IDLE": {"START": "BODY", "CUT": "CUT"},
    "BODY": {"DATA": "BODY", "FINISH": "FINISHING", "CUT": "CUT"},
    "FINISHING": {"DONE": "DONE", "CUT": "CUT"},
    "DONE": {},
    "CUT": {},
}


def name(value: object) -> str:
    return value.name if isinstance(value, Enum) else str(value)


@pytest.mark.parametrize(("state", "event"), list(product(RequestState, RequestEvent)), ids=name)
def test_request_moves_as_the_table_says_or_not_at_all(
    state: RequestState, event: RequestEvent
) -> None:
    exchange = Exchange(request=state)
    target = REQUEST[state.name].get(event.name)
    if target is None:
        with pytest.raises(IllegalTransition, match=f"{event.name}.*{state.name}"):
            exchange.on_request(event)
        assert exchange.request is state
    else:
        exchange.on_request(event)
        assert exchange.request is RequestState[target]
    assert exchange.response is ResponseState.IDLE


@pytest.mark.parametrize(("state", "event"), list(product(ResponseState, ResponseEvent)), ids=name)
def test_response_moves_as_the_table_says_or_not_at_all(
    state: ResponseState, event: ResponseEvent
) -> None:
    exchange = Exchange(response=state)
    target = RESPONSE[state.name].get(event.name)
    if target is None:
        with pytest.raises(IllegalTransition, match=f"{event.name}.*{state.name}"):
            exchange.on_response(event)
        assert exchange.response is state
    else:
        exchange.on_response(event)
        assert exchange.response is ResponseState[target]
    assert exchange.request is RequestState.READING


@pytest.mark.parametrize(
    ("request_state", "state"), list(product(RequestState, ResponseState)), ids=name
)
def test_an_error_can_be_answered_only_before_the_start_and_to_a_client_that_is_there(
    request_state: RequestState, state: ResponseState
) -> None:
    exchange = Exchange(request_state, state)
    assert exchange.can_answer_error == (
        state is ResponseState.IDLE and request_state is not RequestState.GONE
    )


@pytest.mark.parametrize(
    ("state", "matters"),
    [("IDLE", True), ("BODY", True), ("FINISHING", False), ("DONE", False), ("CUT", False)],
)
def test_a_disconnect_matters_until_the_final_message_is_on_its_way(
    state: str, matters: bool
) -> None:
    # D20, RQ-32
    assert Exchange(response=ResponseState[state]).disconnect_matters is matters


@pytest.mark.parametrize(
    ("state", "settled"),
    [("READING", False), ("DISCARDING", False), ("COMPLETE", True), ("GONE", True)],
)
def test_a_request_is_settled_when_nothing_more_can_come(state: str, settled: bool) -> None:
    assert Exchange(request=RequestState[state]).request_settled is settled


@given(st.lists(st.sampled_from(ResponseEvent)))
def test_no_order_of_events_gives_a_client_two_starts_or_two_ends(
    events: list[ResponseEvent],
) -> None:
    exchange = Exchange()
    taken: list[ResponseEvent] = []
    for event in events:
        try:
            exchange.on_response(event)
        except IllegalTransition:
            continue
        taken.append(event)
    assert taken.count(ResponseEvent.START) <= 1
    assert taken.count(ResponseEvent.DONE) + taken.count(ResponseEvent.CUT) <= 1
    if ResponseEvent.FINISH in taken:
        assert ResponseEvent.DATA not in taken[taken.index(ResponseEvent.FINISH) :]


@given(st.lists(st.sampled_from(RequestEvent)))
def test_closing_the_body_is_always_possible(events: list[RequestEvent]) -> None:
    exchange = Exchange()
    for event in events:
        try:
            exchange.on_request(event)
        except IllegalTransition:
            pass
        exchange.on_request(RequestEvent.CLOSE)
