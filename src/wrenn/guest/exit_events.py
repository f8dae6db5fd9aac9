"""How a process in the guest ended, as the guest agent reports it."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.signal_names import SIGNAL_EXIT_BASE, is_signal
from wrenn.protocol.guest import process_pb as pb


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process ended.

    Attributes:
        exit_code: as in a shell: 128 + `signal` if a signal terminated the process.
        signal: number of that signal, otherwise 0.
        out_of_memory: the guest's kernel killed the process, or one that it started, because memory was
            exhausted.
    """

    exit_code: int
    signal: int = 0
    out_of_memory: bool = False


def parse_exit(end: pb.ProcessEvent.EndEvent) -> Exited:
    """Parse the guest's last event of a process. A signal number that Linux does not have is ignored."""
    if is_signal(end.signal):
        return Exited(SIGNAL_EXIT_BASE + int(end.signal), int(end.signal), bool(end.out_of_memory))
    return Exited(int(end.exit_code), 0, bool(end.out_of_memory))
