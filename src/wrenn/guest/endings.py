"""How a process of the guest ended, as the guest agent reports it."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.signal_names import SHELL_BASE, is_signal
from wrenn.protocol.guest import process_pb as pb


@dataclass(frozen=True, slots=True)
class Exited:
    """How a process ended.

    Attributes:
        exit_code: as a shell has it: 128 + `signal` when a signal ended the process.
        signal: number of that signal, else 0.
        out_of_memory: the guest's kernel killed the process, or one that it started, because memory ran out.
    """

    exit_code: int
    signal: int = 0
    out_of_memory: bool = False


def exited(end: pb.ProcessEvent.EndEvent) -> Exited:
    """Read the guest's last event of a process. A signal that Linux does not have is left out."""
    if is_signal(end.signal):
        return Exited(SHELL_BASE + int(end.signal), int(end.signal), bool(end.out_of_memory))
    return Exited(int(end.exit_code), 0, bool(end.out_of_memory))
