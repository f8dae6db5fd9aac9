"""Follows the drain of a host until it is done, for `wrenn hosts drain`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from wrenn.cli.up.progress import Progress
    from wrenn.sdk._parse import Fields
    from wrenn.sdk.account import Account

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 0.5
_SILENT_FOR_S: Final = 60.0
"""How long the platform may not answer, as when it is restarted, before that is an error."""
_PHASES: Final = ("starting", "running", "pausing", "moving", "stopping", "missing", "paused")
_FAILURES_SHOWN: Final = 5


def follow(path: str, progress: Progress, *, timeout_s: float | None) -> None:
    """Show how far the drain is, until no sandbox is in the host's memory. Ending this does not end the drain.

    Raises:
        DeadlineExceededError: not within `timeout_s`; the message says what is left, if that is known. ConflictError: the drain was taken back.
        NotFoundError: the host was deleted. ConnectionFailedError, UnavailableError: the platform did not answer for a minute.
    """
    from wrenn.cli import credentials
    from wrenn.sdk.errors import AuthenticationError

    end = None if timeout_s is None else time.monotonic() + timeout_s
    shown = ""
    while True:
        # The token of a session is valid for minutes, a drain may take days.
        with ExitStack() as stack:
            account = _answered(lambda: stack.enter_context(credentials.account()), end)
            try:
                _follow(account, path, progress, end, shown)
            except AuthenticationError:
                time.sleep(_LOOK_AGAIN_S)
            else:
                return


def _follow(account: Account, path: str, progress: Progress, end: float | None, shown: str) -> None:
    from wrenn.sdk._parse import Fields
    from wrenn.sdk.errors import ConflictError, DeadlineExceededError

    while True:
        found = _answered(lambda: account.call("GET", path), end)
        drain = Fields("host", found).optional_object("drain")
        if drain is None:
            raise ConflictError("The drain was taken back by somebody else.", status=409)
        if drain.text("state") == "drained":
            if drain.text("policy") == "move" and drain.objects("failures", "failure"):
                progress.note(summary(drain))
            return
        text = summary(drain)
        if text != shown:
            progress.note(text)
            shown = text
        if end is not None and time.monotonic() >= end:
            raise DeadlineExceededError(f"The host is not drained yet: {text}.")
        time.sleep(_LOOK_AGAIN_S)


def _answered(call: Callable[[], T], end: float | None) -> T:
    """Make a call, again and again while the platform does not answer: for a minute, and not beyond `end`."""
    from wrenn.sdk.errors import ConnectionFailedError, DeadlineExceededError, UnavailableError

    give_up = time.monotonic() + _SILENT_FOR_S
    while True:
        try:
            return call()
        except (ConnectionFailedError, UnavailableError) as error:
            if end is not None and time.monotonic() >= end:
                raise DeadlineExceededError(
                    f"It is not known whether the host is drained: the platform does not answer. {error}"
                ) from error
            if time.monotonic() >= give_up:
                raise
            time.sleep(_LOOK_AGAIN_S)


def summary(drain: Fields) -> str:
    """Describe in one line how far a drain is, and which sandboxes cannot be paused or moved."""
    counts = drain.optional_object("sandboxes")
    phases = [
        f"{count} {phase}"
        for phase in _PHASES
        if counts is not None and (count := counts.optional_integer(phase))
    ]
    text = ", ".join(phases) or "no sandboxes"
    failures = drain.objects("failures", "failure") if drain.values("sandboxes") else []
    done = "moved" if drain.text("policy") == "move" else "paused"
    for failure in failures[:_FAILURES_SHOWN]:
        text += f"; {failure.text('sandbox_id')} cannot be {done}: {failure.text('reason').rstrip('.')}"
    if (more := len(failures) - _FAILURES_SHOWN) > 0:
        text += f"; and {more} more"
    return text
