"""`wrenn up` and `wrenn down`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.base.errors import Forbidden, InternalError, NotFound
from wrenn.cli.exits import Exit
from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import data_dir
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.options import ListenOption, parse_listen

if TYPE_CHECKING:
    from wrenn.cli.up.bring_up import Platform


def up(
    data_dir_: DataDirOption = None,
    listen: ListenOption = None,
    *,
    foreground: Annotated[
        bool,
        typer.Option("--foreground", help="Stay in the foreground; stop everything on Ctrl-C or SIGTERM."),
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Then run a program in a sandbox as a demonstration.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Set up and start the platform; needs root.

    It runs in the background. The command is idempotent.

    Writes WRENN_BASE_URL, WRENN_API_KEY, and E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY for clients of e2b, to D/env (default
    /var/lib/wrenn/env), which only root can read.
    """
    from wrenn.cli.up.bring_up import bring_up
    from wrenn.cli.up.demo import demonstrate, print_next_steps
    from wrenn.cli.up.progress import Progress

    layout = Layout(data_dir(data_dir_))
    work = bring_up(layout, parse_listen(listen), Progress())

    def report(platform: Platform) -> None:
        if json:
            print_json({"url": platform.url, "env": layout.env, "was_running": platform.was_running})
            return
        sys.stdout.write("Already running.\n" if platform.was_running else "Running.\n")
        if demo:
            demonstrate(layout)
        # The link signs in as an administrator: it is for a person, never for a journal or the log of a build server.
        link = asyncio.run(_sign_in_link(layout)) if sys.stdout.isatty() else None
        print_next_steps(layout, platform.url, link)

    if foreground:
        asyncio.run(_in_foreground(layout, work, report))
    else:
        report(asyncio.run(work))


async def _sign_in_link(layout: Layout) -> str | None:
    """Return a link to the dashboard. None: it is not built, or the operator has closed the first admin's account."""
    from wrenn.cli.up.sign_in_link import make_sign_in_link

    try:
        return await make_sign_in_link(layout)
    except (NotFound, Forbidden):
        return None


def down(
    data_dir_: DataDirOption = None,
    *,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the sandboxes and all data.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Stop the platform and pause its running sandboxes.

    Data, keys and sandboxes are kept: `wrenn up` starts the platform again, and `wrenn resume` the sandboxes.
    A sandbox that cannot be paused in time keeps running, and the next `wrenn up` adopts it; the exit code is
    then 1.
    """
    from wrenn.cli.up.progress import Progress
    from wrenn.cli.up.take_down import take_down

    layout = Layout(data_dir(data_dir_))
    if purge and not yes:
        typer.confirm(f"Remove everything in {layout.data_dir}, with keys and images?", abort=True)
    outcome = asyncio.run(take_down(layout, Progress(), purge=purge))
    if outcome.still_running is not None:
        sys.stderr.write(
            f"wrenn: {outcome.still_running} They keep running, and the next `wrenn up` adopts them.\n"
        )
        raise typer.Exit(Exit.ERROR)
    sys.stdout.write(f"Stopped{_paused_text(outcome.paused)}.\n")


def _paused_text(paused: int) -> str:
    if not paused:
        return ""
    return f"; {paused} {'sandbox is' if paused == 1 else 'sandboxes are'} paused (`wrenn up`, then `wrenn resume`)"


async def _in_foreground(
    layout: Layout, work: Coroutine[None, None, Platform], report: Callable[[Platform], None]
) -> None:
    """Start the platform and wait for a signal or the end of the supervisor; then stop the programs.

    A start that fails or is cancelled stops nothing but what it started: another `wrenn up` may have started the platform that runs.

    Raises:
        InternalError: the supervisor exited by itself. Else as `bring_up`.
    """
    from wrenn.cli.up.daemons import running
    from wrenn.cli.up.progress import Progress
    from wrenn.cli.up.services import SUPERVISOR
    from wrenn.cli.up.take_down import stop_programs

    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)

    is_up = False

    async def stay() -> None:
        nonlocal is_up
        platform = await work
        is_up = True
        await asyncio.to_thread(report, platform)
        chief = running(layout, SUPERVISOR)
        if chief is not None:
            await chief.wait_exit()
        raise InternalError(f"The supervisor ended; its log is {layout.log(SUPERVISOR)}.")

    staying, ending = asyncio.create_task(stay()), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait((staying, ending), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await staying
    finally:
        for task in (staying, ending):
            task.cancel()
        await asyncio.gather(staying, ending, return_exceptions=True)
        if is_up:
            async with layout.locked(Progress().note):
                await stop_programs(layout)
