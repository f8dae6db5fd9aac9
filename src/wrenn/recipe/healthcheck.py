"""The ready check of a template: `[--interval=3s] [--timeout=10s] [--start-period=0] [--retries=0] <command>`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.durations import parse_duration
from wrenn.recipe.limits import MAX_INSTRUCTION_B, check_text, shown

SHELL: Final = ("/bin/sh", "-c")

DEFAULT_INTERVAL_S: Final = 3.0
DEFAULT_TIMEOUT_S: Final = 10.0
MAX_RETRIES: Final = 10_000

_BOUNDS_S: Final = {"interval": (0.1, 3600.0), "timeout": (0.1, 3600.0), "start-period": (0.0, 3600.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCheck:
    """A command that exits with 0 when the sandbox is ready. The first attempt is made after one interval.

    Attributes:
        argv: program and arguments; a shell command is `/bin/sh -c COMMAND`.
        interval_s: time between attempts.
        timeout_s: an attempt that takes longer has failed.
        start_period_s: failures in this time after the start are not counted.
        retries: the check fails at this many counted failures, or after start period + (retries + 1) x interval.
            0 means that only the time limit of the build ends it.
        text: as it was written, for logs.
    """

    argv: tuple[str, ...]
    interval_s: float = DEFAULT_INTERVAL_S
    timeout_s: float = DEFAULT_TIMEOUT_S
    start_period_s: float = 0.0
    retries: int = 0
    text: str

    @property
    def limit_s(self) -> float | None:
        """Time from the start after which the check has failed; None without a limit."""
        return self.start_period_s + (self.retries + 1) * self.interval_s if self.retries else None


def parse_ready_check(text: str) -> ReadyCheck:
    """Parse the text of the API's `healthcheck`. Flags have the form `--name=value` and come first, each at most once.

    Raises:
        InvalidRequest: unknown flag, value out of bounds, or no command.
    """
    check_text(text, MAX_INSTRUCTION_B, "The health check")
    rest = text.strip()
    flags: dict[str, str] = {}
    while rest.startswith("--"):
        flag, rest = (*rest.split(maxsplit=1), "")[:2]
        name, equals, value = flag[2:].partition("=")
        if name not in (*_BOUNDS_S, "retries"):
            raise InvalidRequest(f"Health check: there is no flag {shown('--' + name)}.")
        if not equals or not value:
            raise InvalidRequest(f"Health check: expected --{name}=VALUE.")
        if name in flags:
            raise InvalidRequest(f"Health check: --{name} is given twice.")
        flags[name] = value
    if not rest:
        raise InvalidRequest("Health check: the command is missing.")
    return ReadyCheck(
        argv=(*SHELL, rest),
        interval_s=flag_seconds(flags, "interval", DEFAULT_INTERVAL_S),
        timeout_s=flag_seconds(flags, "timeout", DEFAULT_TIMEOUT_S),
        start_period_s=flag_seconds(flags, "start-period", 0.0),
        retries=flag_retries(flags, 0),
        text=text.strip(),
    )


def flag_seconds(flags: dict[str, str], name: str, default: float) -> float:
    """Return the value of a flag that is a duration, within the bounds of that flag.

    Raises:
        InvalidRequest: not a duration, or out of bounds.
    """
    if name not in flags:
        return default
    low, high = _BOUNDS_S.get(name, _BOUNDS_S["interval"])
    try:
        seconds = parse_duration(flags[name])
    except ValueError as error:
        raise InvalidRequest(f"Health check: --{name}: {error}.") from error
    if not low <= seconds <= high:
        raise InvalidRequest(f"Health check: --{name} must be from {low:g} to {high:g} seconds.")
    return seconds


def flag_retries(flags: dict[str, str], default: int) -> int:
    """Return the value of `--retries`.

    Raises:
        InvalidRequest: not a number from 0 to `MAX_RETRIES`.
    """
    text = flags.get("retries", str(default))
    if (
        not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_RETRIES)))
        or int(text) > MAX_RETRIES
    ):
        raise InvalidRequest(f"Health check: --retries must be a number from 0 to {MAX_RETRIES}.")
    return int(text)
