"""`wrenn status`: running programs, their uptime, and resource usage."""

from __future__ import annotations

import asyncio
import contextlib
import json as jsonlib
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import typer

from wrenn.base.loops import LoopStatus
from wrenn.cli.exits import Exit
from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json, print_table
from wrenn.cli.settings import data_dir, read_env
from wrenn.cli.up.layout import Layout


@dataclass(frozen=True, slots=True)
class Status:
    """The state of an installation. The pid of a program that does not run is None, as is an unknown number.

    `sandboxes` is the number of the first user's sandboxes that have not ended, of which `paused` are paused.
    `loops` has the last results of the control plane's background loops; empty if it does not run.
    """

    data_dir: str
    url: str | None
    cli_version: str
    platform_version: str | None
    programs: dict[str, int | None]
    accelerator: str | None
    sandboxes: int | None
    paused: int | None
    disk_free_mb: int | None
    loops: list[LoopStatus]

    @property
    def is_well(self) -> bool:
        """Whether all programs run and respond."""
        return None not in self.programs.values() and self.platform_version is not None


def status(data_dir_: DataDirOption = None, *, json: JsonOption = False) -> None:
    """Show running programs and resource usage.

    The exit code is 0 if all programs run and respond.
    """
    found = asyncio.run(_look(Layout(data_dir(data_dir_))))
    if json:
        print_json(found)
    else:
        programs = [(name, f"pid {pid}" if pid else "not running") for name, pid in found.programs.items()]
        rows = [
            *programs,
            ("URL", found.url or "unknown"),
            ("platform", found.platform_version or "does not answer"),
            ("wrenn", found.cli_version),
            ("accelerator", found.accelerator or "unknown"),
            ("sandboxes", _counted(found)),
            ("background loops", loops_in_words(found)),
            ("disk free", "unknown" if found.disk_free_mb is None else f"{found.disk_free_mb} MB"),
            ("data folder", found.data_dir),
        ]
        print_table(("WHAT", "STATE"), rows)
    if not found.is_well:
        raise typer.Exit(Exit.ERROR)


def _counted(found: Status) -> str:
    if found.sandboxes is None:
        return "unknown"
    return f"{found.sandboxes}, {found.paused} of them paused" if found.paused else str(found.sandboxes)


def loops_in_words(found: Status) -> str:
    """Say how many background loops run, or which of them fail and why."""
    if not found.loops:
        return "unknown"
    failing = [f"{loop.name} fails: {loop.error}" for loop in found.loops if loop.error]
    return "; ".join(failing) or f"{len(found.loops)} run"


def read_loops(folder: Path) -> list[LoopStatus]:
    """Read what the background loops of the control plane with this data folder did last; empty: that is not known."""
    from wrenn.control.loop_report import FILE

    try:
        return [LoopStatus(**loop) for loop in jsonlib.loads((folder / FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


async def _look(layout: Layout) -> Status:
    from wrenn.agent.settings import Settings
    from wrenn.cli.up import database
    from wrenn.cli.up.daemons import running
    from wrenn.cli.up.services import AGENT, CONTROL, SUPERVISOR
    from wrenn.sdk import AsyncSandbox, WrennError
    from wrenn.sdk.health import platform_version

    found = {name: running(layout, name) for name in (SUPERVISOR, CONTROL, AGENT)}
    if database.external_url(layout.data_dir) is None:
        found["postgres"] = database.process(layout.data_dir)
    env = read_env(layout.env)
    url, key = env.get("WRENN_BASE_URL"), env.get("WRENN_API_KEY")
    answer, sandboxes, paused = None, None, None
    if url is not None and key is not None:
        try:
            answer = await platform_version(url, timeout_s=3)
            listed = await AsyncSandbox.list(api_key=key, base_url=url, request_timeout_s=3)
            sandboxes, paused = len(listed), sum(info.status == "paused" for info in listed)
        except WrennError:
            pass  # the table shows that it does not respond
    # The agent writes this file if there is a device to check.
    agent = Settings.from_environment({"WRENN_DATA_DIR": str(layout.data_dir)})
    accelerator = None if Path("/dev/kvm").exists() else "tcg"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        accelerator = jsonlib.loads(agent.accelerator_choice.read_text())["accelerator"]
    exists = layout.data_dir.is_dir()
    return Status(
        data_dir=str(layout.data_dir),
        url=url,
        cli_version=version("wrenn"),
        platform_version=answer,
        programs={name: process.pid if process else None for name, process in found.items()},
        accelerator=accelerator,
        sandboxes=sandboxes,
        paused=paused,
        disk_free_mb=shutil.disk_usage(layout.data_dir).free // 1024**2 if exists else None,
        loops=read_loops(layout.data_dir) if found[CONTROL] else [],
    )
