"""The states of a sandbox and which may follow which. No other module decides that.

                             ┌────► paused
                             │        ▲ │
    pending ──► starting ──► running ◄┼─┘
       │            │          ▲      │
       │            │          └──► missing
       └────────────┴───────────┴─────┴──► stopped | error

`pending`: written down, no host was asked yet. `starting`: a worker is asking the host, or will ask again. `paused`: put
away with its memory; it takes disk, but no memory and no slot. `missing`: the host is silent, the sandbox may well be alive.
`stopped`: removed because somebody wanted it. `error`: it did not start, or its virtual machine or its files are lost;
nothing of it is left.

Beside the state stands what is wanted. Where both differ, a worker is busy, and `in_words` has the name of that:

| status | desired | |
|---|---|---|
| running | paused | being paused |
| paused | running | being resumed |
| any that has not ended | stopped | being removed |
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.StrEnum):
    """The status of a sandbox. `NEXT` says which status may follow which."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    MISSING = "missing"
    STOPPED = "stopped"
    ERROR = "error"


class Desired(enum.StrEnum):
    """The desired status of a sandbox. `running` and `paused` change into each other; `stopped` is final."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


_ENDS: Final = frozenset({State.STOPPED, State.ERROR})
NEXT: Final[dict[State, frozenset[State]]] = {
    State.PENDING: frozenset({State.STARTING}) | _ENDS,
    State.STARTING: frozenset({State.RUNNING}) | _ENDS,
    State.RUNNING: frozenset({State.PAUSED, State.MISSING}) | _ENDS,
    State.PAUSED: frozenset({State.RUNNING}) | _ENDS,
    # The pause whose answer was lost with its host shows when that is back.
    State.MISSING: frozenset({State.RUNNING, State.PAUSED}) | _ENDS,
    State.STOPPED: frozenset(),
    State.ERROR: frozenset(),
}
assert NEXT.keys() == set(State), "every state says what may follow it"

ENDED: Final = frozenset(state for state, following in NEXT.items() if not following)
"""Nothing of these is on a host, and nothing will be."""


class IllegalTransition(Exception):
    """A bug: code tried to set a status that may not follow the current one."""


def move(state: State, to: State) -> State:
    """Return `to` if it may follow `state`.

    Raises:
        IllegalTransition: it may not.
    """
    if to not in NEXT[state]:
        raise IllegalTransition(f"{state} -> {to}")
    return to


def in_words(state: State, desired: Desired, *, is_moving: bool = False) -> str:
    """Describe the current state for an error message: "paused", "being removed"."""
    if state in ENDED:
        return state.value
    if is_moving and desired is not Desired.STOPPED:
        return "being moved to another host"
    match state, desired:
        case _, Desired.STOPPED:
            return "being removed"
        case State.RUNNING, Desired.PAUSED:
            return "being paused"
        case State.PAUSED, Desired.RUNNING:
            return "being resumed"
        case _:
            return state.value
