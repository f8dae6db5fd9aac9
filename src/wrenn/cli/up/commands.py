"""`wrenn up` and `wrenn down`."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Annotated

import typer

from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import data_dir
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.options import ListenOption, parse_listen


def up(
    data_dir_: DataDirOption = None,
    listen: ListenOption = None,
    *,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; end everything on Ctrl-C or SIGTERM.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Then run a program in a sandbox, to show that it works.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Set up and start the platform; needs root.

    It goes on in the background. Run again, nothing is done twice.

    Writes WRENN_BASE_URL and WRENN_API_KEY to D/env (default /var/lib/wrenn/env), which only root can read.
    """
    from wrenn.cli.up.bring_up import bring_up
    from wrenn.cli.up.demo import demonstrate, say_what_next
    from wrenn.cli.up.progress import Progress

    layout = Layout(data_dir(data_dir_))
    platform = asyncio.run(bring_up(layout, parse_listen(listen), Progress()))
    if json:
        print_json({"url": platform.url, "env": layout.env, "was_running": platform.was_running})
    else:
        sys.stdout.write("Already running.\n" if platform.was_running else "Running.\n")
        if demo:
            demonstrate(layout)
        say_what_next(layout, platform.url)
    sys.stdout.flush()
    if foreground:
        asyncio.run(_stay(layout))


def down(
    data_dir_: DataDirOption = None,
    *,
    purge: Annotated[bool, typer.Option("--purge", help="Also remove all data.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the platform and remove its running sandboxes.

    Data and key stay: `wrenn up` starts it again.
    """
    from wrenn.cli.up.progress import Progress
    from wrenn.cli.up.take_down import take_down

    layout = Layout(data_dir(data_dir_))
    if purge and not yes:
        typer.confirm(f"Remove everything in {layout.data_dir}, with keys and images?", abort=True)
    asyncio.run(take_down(layout, Progress(), purge=purge))
    sys.stdout.write("Stopped.\n")


async def _stay(layout: Layout) -> None:
    """Wait for a signal or the supervisor's end, then end everything."""
    from wrenn.cli.up.daemons import running
    from wrenn.cli.up.services import SUPERVISOR
    from wrenn.cli.up.take_down import stop_programs

    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    chief = running(layout, SUPERVISOR)
    if chief is not None:
        waits = [asyncio.create_task(chief.wait_exit()), asyncio.create_task(end.wait())]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
    await stop_programs(layout)
