"""Names of the signals that end programs of a sandbox: Linux's numbers, whatever machine this runs on."""

from __future__ import annotations

from typing import Final

_NAMES: Final = [
    "HUP",
    "INT",
    "QUIT",
    "ILL",
    "TRAP",
    "ABRT",
    "BUS",
    "FPE",
    "KILL",
    "USR1",
    "SEGV",
    "USR2",
    "PIPE",
    "ALRM",
    "TERM",
    "STKFLT",
    "CHLD",
    "CONT",
    "STOP",
    "TSTP",
    "TTIN",
    "TTOU",
    "URG",
    "XCPU",
    "XFSZ",
    "VTALRM",
    "PROF",
    "WINCH",
    "IO",
    "PWR",
    "SYS",
]
_FIRST_REALTIME: Final = 34
_LAST: Final = 64
SHELL_BASE: Final = 128
"""A shell's exit code for a command that a signal ended is this plus the signal's number."""


def is_signal(number: int) -> bool:
    """Whether Linux has a signal of this number."""
    return 0 < number <= _LAST


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `SIGRTMIN+1` for 35. For what `is_signal` accepts."""
    if number <= len(_NAMES):
        return f"SIG{_NAMES[number - 1]}"
    return f"SIGRTMIN{number - _FIRST_REALTIME:+d}" if number != _FIRST_REALTIME else "SIGRTMIN"
