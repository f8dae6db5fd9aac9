"""The states of a sandbox and what may follow each; nothing else decides a state.

    pending ──► starting ──► running ◄──► missing
       │            │           │            │
       └────────────┴───────────┴────────────┴──► stopped | error

`pending`: written down, no host was asked yet. `starting`: a worker is asking the host, or will ask again. `missing`: the
host is silent, the sandbox may well be alive. `stopped`: removed because somebody wanted it. `error`: it did not start, or
its virtual machine ended; nothing of it is left.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.StrEnum):
    """See the module head."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    MISSING = "missing"
    STOPPED = "stopped"
    ERROR = "error"


class Desired(enum.StrEnum):
    """What the owner wants; only ever changes from the first to the second."""

    RUNNING = "running"
    STOPPED = "stopped"


_ENDS: Final = frozenset({State.STOPPED, State.ERROR})
NEXT: Final[dict[State, frozenset[State]]] = {
    State.PENDING: frozenset({State.STARTING}) | _ENDS,
    State.STARTING: frozenset({State.RUNNING}) | _ENDS,
    State.RUNNING: frozenset({State.MISSING}) | _ENDS,
    State.MISSING: frozenset({State.RUNNING}) | _ENDS,
    State.STOPPED: frozenset(),
    State.ERROR: frozenset(),
}
assert NEXT.keys() == set(State), "every state says what may follow it"

ENDED: Final = frozenset(state for state, following in NEXT.items() if not following)
"""Nothing of these is on a host, and nothing will be."""


class IllegalTransition(Exception):
    """A fault of ours: a state was about to follow one that it may not follow."""


def move(state: State, to: State) -> State:
    """`to`, if it may follow `state`.

    Raises:
        IllegalTransition: it may not.
    """
    if to not in NEXT[state]:
        raise IllegalTransition(f"{state} -> {to}")
    return to
