"""Waits until the reconciler has carried out a request, and raises the reason if it could not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InvalidState, NotFound, Unavailable, error_class
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.sandboxes.changes import ChangeWaiter
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, Desired, State

_REMOVE_TIMEOUT_S: Final = 30.0
_MARGIN_S: Final = 5.0
"""How much longer a caller waits than the reconciler tries, so that the caller gets the reconciler's reason."""


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How long callers wait for the reconciler.

    Attributes:
        start_s: for a sandbox to start.
        change_s: for one to be paused or resumed.
        move_s: for one to be moved to another host.
    """

    start_s: float
    change_s: float
    move_s: float = 600.0


async def wait_started(change: ChangeWaiter, wait_limits: WaitLimits) -> Sandbox:
    """Wait until the sandbox is running, and return it.

    Raises:
        DeadlineExceeded: not in time. InvalidState: it was removed. Else the reason why it did not start.
    """
    sandbox = await _wait(change, _is_decided, wait_limits.start_s, "start")
    _raise_if_over(sandbox)
    return sandbox


async def wait_settled(change: ChangeWaiter, wait_limits: WaitLimits) -> Sandbox:
    """Wait until the sandbox is neither being paused nor resumed, and return it.

    Raises:
        DeadlineExceeded: not in time.
    """
    return await _wait(change, _is_settled, wait_limits.change_s, "pause or resume")


async def wait_paused(change: ChangeWaiter, wait_limits: WaitLimits) -> Sandbox:
    """Wait until the sandbox was paused, and return it; it may be running again if somebody resumed it since.

    Raises:
        DeadlineExceeded: not in time. InvalidState: it was removed. Else the reason why it was not paused.
    """
    sandbox = await _wait(
        change,
        lambda s: s.status is not State.RUNNING or s.desired is not Desired.PAUSED,
        wait_limits.change_s,
        "pause",
    )
    _raise_if_over(sandbox)
    if sandbox.status is State.RUNNING and sandbox.failure:
        raise error_class(sandbox.failure)(sandbox.reason)
    return sandbox


async def wait_resumed(change: ChangeWaiter, wait_limits: WaitLimits) -> Sandbox:
    """Wait until the sandbox was resumed, and return it; it may be paused again if somebody paused it since.

    Raises:
        DeadlineExceeded: not in time. InvalidState: it was removed. Else the reason why it was not resumed.
    """
    sandbox = await _wait(
        change,
        lambda s: s.status is not State.PAUSED or s.desired is not Desired.RUNNING,
        wait_limits.change_s,
        "resume",
    )
    _raise_if_over(sandbox)
    if sandbox.status is State.PAUSED and sandbox.failure:
        raise error_class(sandbox.failure)(sandbox.reason)
    return sandbox


async def wait_moved(change: ChangeWaiter, host_id: HostId, wait_limits: WaitLimits) -> Sandbox:
    """Wait until the move of the sandbox to this host is over, and return it.

    Raises:
        DeadlineExceeded: not in time; the move goes on. InvalidState: it was removed. Else the reason why it was not moved.
    """
    sandbox = await _wait(
        change, lambda s: not s.is_moving or s.desired is Desired.STOPPED, wait_limits.move_s, "move"
    )
    _raise_if_over(sandbox)
    if sandbox.host_id != host_id and sandbox.failure:
        raise error_class(sandbox.failure)(sandbox.reason)
    return sandbox


async def wait_ended(change: ChangeWaiter, sandbox_id: SandboxId) -> None:
    """Wait until nothing of the sandbox is left.

    Raises:
        Unavailable: its host does not answer; it will be removed when the host is back.
    """
    try:
        await change.wait_until(lambda sandbox: sandbox.status in ENDED, timeout_s=_REMOVE_TIMEOUT_S)
    except TimeoutError as error:
        raise Unavailable(
            f"The host of sandbox {sandbox_id} did not answer within {_REMOVE_TIMEOUT_S:.0f} s. "
            "The sandbox will be removed when the host is back."
        ) from error


async def _wait(change: ChangeWaiter, done: Callable[[Sandbox], bool], tries_s: float, verb: str) -> Sandbox:
    timeout_s = tries_s + _MARGIN_S
    try:
        sandbox = await change.wait_until(done, timeout_s=timeout_s)
    except TimeoutError as error:
        raise DeadlineExceeded(f"The sandbox did not {verb} within {timeout_s:.0f} s.") from error
    if sandbox is None:
        raise NotFound("The sandbox is gone.")
    return sandbox


def _raise_if_over(sandbox: Sandbox) -> None:
    if sandbox.status is State.ERROR:
        raise error_class(sandbox.failure)(sandbox.reason)
    if sandbox.status in ENDED or sandbox.desired is Desired.STOPPED:
        raise InvalidState(f"Sandbox {sandbox.sandbox_id} was removed.")


def _is_decided(sandbox: Sandbox) -> bool:
    starts = sandbox.status in (State.PENDING, State.STARTING)
    return not starts or sandbox.desired is Desired.STOPPED


def _is_settled(sandbox: Sandbox) -> bool:
    if sandbox.desired is Desired.STOPPED:
        return True
    if sandbox.is_moving:
        return False
    return sandbox.status not in (State.RUNNING, State.PAUSED) or sandbox.desired == sandbox.status.value
