"""The table of a sandbox's states, every pair of it."""

from __future__ import annotations

import itertools

import pytest

from wrenn.control.sandboxes.state import ENDED, NEXT, Desired, IllegalTransition, State, in_words, move
from wrenn.control.templates import TemplateStatus
from wrenn.control.templates import move as move_snapshot

LEGAL = {
    ("pending", "starting"), ("pending", "stopped"), ("pending", "error"),
    ("starting", "running"), ("starting", "stopped"), ("starting", "error"),
    ("running", "paused"), ("running", "missing"), ("running", "stopped"), ("running", "error"),
    ("paused", "running"), ("paused", "stopped"), ("paused", "error"),
    ("missing", "running"), ("missing", "paused"), ("missing", "stopped"), ("missing", "error"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "to"), list(itertools.product(State, State)))
def test_every_pair_of_states_is_decided(state: State, to: State):
    if (state.value, to.value) in LEGAL:
        assert move(state, to) is to
    else:
        with pytest.raises(IllegalTransition):
            move(state, to)


def test_nothing_follows_an_end():
    assert {State.STOPPED, State.ERROR} == ENDED
    assert NEXT.keys() == set(State)


SPOKEN = {
    ("running", "paused"): "being paused",
    ("paused", "running"): "being resumed",
    ("paused", "paused"): "paused",
    ("running", "running"): "running",
}


@pytest.mark.parametrize(("state", "desired"), list(itertools.product(State, Desired)))
def test_what_a_sandbox_is_now_can_be_said(state: State, desired: Desired):
    said = in_words(state, desired)
    if state in ENDED:
        assert said == state.value
    elif desired is Desired.STOPPED:
        assert said == "being removed"
    else:
        assert said == SPOKEN.get((state.value, desired.value), state.value)


@pytest.mark.parametrize("status", TemplateStatus)
@pytest.mark.parametrize("to", TemplateStatus)
def test_a_snapshot_is_pending_then_perhaps_ready_then_removed(
    status: TemplateStatus, to: TemplateStatus
) -> None:
    order = list(TemplateStatus)
    if order.index(to) > order.index(status):
        assert move_snapshot(status, to) is to
    else:
        with pytest.raises(AssertionError):
            move_snapshot(status, to)
