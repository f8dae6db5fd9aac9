"""Names of signals by Linux's numbers, whatever operating system this runs on."""

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
SIGNAL_EXIT_BASE: Final = 128
"""A shell reports the exit code 128 + n for a command that was terminated by signal n."""


def is_signal(number: int) -> bool:
    """Whether Linux has a signal with this number."""
    return 0 < number <= _LAST


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGKILL` for 9, `SIGRTMIN+1` for 35. `number` must be one that `is_signal` accepts."""
    if number <= len(_NAMES):
        return f"SIG{_NAMES[number - 1]}"
    return f"SIGRTMIN{number - _FIRST_REALTIME:+d}" if number != _FIRST_REALTIME else "SIGRTMIN"
