"""The table of a sandbox's states, every pair of it."""

from __future__ import annotations

import itertools

import pytest

from wrenn.control.sandboxes.state import ENDED, NEXT, IllegalTransition, State, move

LEGAL = {
    ("pending", "starting"), ("pending", "stopped"), ("pending", "error"),
    ("starting", "running"), ("starting", "stopped"), ("starting", "error"),
    ("running", "missing"), ("running", "stopped"), ("running", "error"),
    ("missing", "running"), ("missing", "stopped"), ("missing", "error"),
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
