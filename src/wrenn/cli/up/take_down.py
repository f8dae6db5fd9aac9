"""`wrenn down`: stops everything that `wrenn up` started, in reverse order; with `--purge` also removes what it created.

Sandboxes are paused before the programs stop. With `--purge` they are removed instead.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidState
from wrenn.base.errors import WrennError as PlatformError
from wrenn.cli.settings import read_env
from wrenn.cli.up import database
from wrenn.cli.up.agent_doctor import agent_runs, fix_leftovers
from wrenn.cli.up.daemons import running, stop
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.options import parse_listen
from wrenn.cli.up.progress import Progress
from wrenn.cli.up.services import AGENT, CONTROL, SUPERVISOR, services, supervisor
from wrenn.cli.up.supervisor import stop_daemon
from wrenn.sdk import AsyncSandbox, WrennError

PAUSE_TIMEOUT_S: Final = 120.0
"""Longest time for all pauses: each has a grace period of two seconds, and the memory of a full host is
written to a slow disk."""


@dataclass(frozen=True, slots=True)
class TakenDown:
    """The result for sandboxes: how many were paused, and why others still run, if any."""

    paused: int = 0
    still_running: str | None = None


async def take_down(layout: Layout, progress: Progress, *, purge: bool) -> TakenDown:
    """Pause the sandboxes, stop the programs and PostgreSQL; with `purge` remove sandboxes and data. Idempotent.

    Sandboxes that cannot be paused keep running; the programs are stopped nevertheless.

    Raises:
        InvalidState: the folder has more than the data of wrenn, or an agent that something else started uses it, so it is not
            purged; nothing was done.
    """
    if purge and layout.data_dir.is_dir() and not layout.marker.exists():
        raise InvalidState(
            f"{layout.data_dir} was not made by wrenn: it may have data of other programs, so it is not removed."
            " Run `wrenn down` without --purge, and remove what is yours by hand."
        )
    lost = [name for name in (SUPERVISOR, CONTROL, AGENT) if running(layout, name) is not None]
    if purge and AGENT not in lost and agent_runs(layout.data_dir):
        raise InvalidState(
            f"An agent that a service manager started uses {layout.data_dir}: stop it with"
            " `systemctl disable --now wrenn-agent`, then run this again."
        )
    if lost:
        layout.make()
    if not layout.run.is_dir():
        progress.note(f"nothing runs in {layout.data_dir}")
        return TakenDown()
    async with layout.locked(progress.note):
        outcome = TakenDown()
        if running(layout, SUPERVISOR) is not None:
            if purge:
                await _remove_sandboxes(layout, progress)
            else:
                outcome = await _pause_sandboxes(layout, progress)
        with progress.step("Control plane and agent"):
            await stop_programs(layout)
        with progress.step("PostgreSQL"):
            await database.stop(layout.data_dir)
        if purge:
            with progress.step("Data, network and cgroups"):
                await _purge(layout)
    return outcome


async def _pause_sandboxes(layout: Layout, progress: Progress) -> TakenDown:
    from wrenn.control.sandboxes import pause_all

    try:
        with progress.step("Pausing the running sandboxes"):
            url = await database.ensure(layout.data_dir)
            return TakenDown(await pause_all(url, timeout_s=PAUSE_TIMEOUT_S))
    except PlatformError as error:
        return TakenDown(still_running=error.message)


async def _remove_sandboxes(layout: Layout, progress: Progress) -> None:
    credentials = read_env(layout.env)
    if "WRENN_API_KEY" not in credentials:
        return
    key, url = credentials["WRENN_API_KEY"], credentials["WRENN_BASE_URL"]
    try:
        sandboxes = await AsyncSandbox.list(api_key=key, base_url=url)
        if not sandboxes:
            return
        with progress.step(f"Removing {len(sandboxes)} sandboxes"):
            for info in sandboxes:
                await (await AsyncSandbox.connect(info.id, resume=False, api_key=key, base_url=url)).kill()
    except WrennError as error:
        progress.note(f"the platform could not remove the sandboxes ({error}); they go with the data")


async def stop_programs(layout: Layout) -> None:
    """Stop supervisor, control plane and agent. Sandboxes and PostgreSQL keep running."""
    listen = parse_listen(None)  # only the names matter here
    chief = running(layout, SUPERVISOR)
    if chief is not None:
        await stop(chief, timeout_s=supervisor(layout.data_dir, listen).stop_timeout_s)
    # Programs that a killed supervisor left running.
    for daemon in reversed(services(layout.data_dir, listen, "")):
        await stop_daemon(layout, daemon)
    layout.pid_file(SUPERVISOR).unlink(missing_ok=True)


async def _purge(layout: Layout) -> None:
    from wrenn.network import release_block

    # Without their journals the sandboxes have no owner, so the doctor removes what is left of them.
    shutil.rmtree(layout.data_dir / "sandboxes", ignore_errors=True)
    await fix_leftovers(layout.data_dir)
    release_block(layout.data_dir)
    shutil.rmtree(layout.data_dir)
