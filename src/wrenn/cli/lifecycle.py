"""`wrenn pause`, `wrenn resume`, `wrenn fork`, `wrenn timeout`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wrenn.cli.each import do_each
from wrenn.cli.output import JsonOption, print_json, until
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import SandboxInfo

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")]
IdleOption = Annotated[
    int | None,
    typer.Option("--timeout", metavar="SECONDS", help="Pause it after this long without use; 0: never."),
]
LifetimeOption = Annotated[
    int | None,
    typer.Option("--lifetime", metavar="SECONDS", help="Its time ends so long from now; 0: never."),
]
OnExpiryOption = Annotated[
    Literal["pause", "kill"] | None,
    typer.Option("--on-expiry", help="What happens at the end of its lifetime."),
]


def pause(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to pause.")],
    *,
    json: JsonOption = False,
) -> None:
    """Put sandboxes away with memory, processes and files.

    A paused sandbox uses disk space only. Goes on after one that fails; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox

    def act(sandbox_id: str) -> None:
        with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
            sandbox.pause()

    use_credentials()
    do_each(ids, act, done="paused", json=json)


def resume(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to resume.")],
    *,
    json: JsonOption = False,
) -> None:
    """Bring paused sandboxes back; their processes go on.

    Goes on after one that fails; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox

    def act(sandbox_id: str) -> None:
        with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
            sandbox.resume()

    use_credentials()
    do_each(ids, act, done="running", json=json)


def fork(
    sandbox_id: IdArgument,
    *,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="How many copies.")] = 1,
    json: JsonOption = False,
) -> None:
    """Copy a running sandbox and print the ids of the copies.

    They have its memory, processes and files. The sandbox itself goes on after a short stop.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.connect(sandbox_id, resume=False)
    copies = sandbox.fork(count)
    sandbox.close()
    if json:
        print_json([copy.info() for copy in copies])
    else:
        sys.stdout.writelines(f"{copy.id}\n" for copy in copies)
    for copy in copies:
        copy.close()


def disk(
    sandbox_id: IdArgument,
    size: Annotated[
        int | None, typer.Argument(metavar="[MB]", help="How large it is to be; without, nothing changes.")
    ] = None,
    *,
    json: JsonOption = False,
) -> None:
    """Make the disk of a sandbox larger, and print its size in MB.

    One that stands still because it used up its share of the host's disk may take as much more, and goes on.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.connect(sandbox_id, resume=False)
    info = sandbox.info() if size is None else sandbox.set_disk(size)
    sandbox.close()
    if json:
        print_json(info)
    else:
        sys.stdout.write(f"{info.disk_size_mb}\n")


def timeout(
    sandbox_id: IdArgument,
    *,
    timeout: IdleOption = None,
    lifetime: LifetimeOption = None,
    on_expiry: OnExpiryOption = None,
    extend_only: Annotated[
        bool, typer.Option("--extend-only", help="Never end its lifetime earlier than now set.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Change and print the time limits of a sandbox.

    What is not given stays; without options nothing changes.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    sandbox = Sandbox.connect(sandbox_id, resume=False)
    if (timeout, lifetime, on_expiry) == (None, None, None):
        info = sandbox.info()
    else:
        info = sandbox.set_timeout(
            timeout, lifetime_sec=lifetime, on_expiry=on_expiry, extend_only=extend_only
        )
    sandbox.close()
    if json:
        print_json(info)
    else:
        sys.stdout.write(_limits(info))


def _limits(info: SandboxInfo) -> str:
    idle = f"pause after {info.timeout_sec} s" if info.timeout_sec else "no limit"
    end = f"{info.on_expiry} {until(info.expires_at)}" if info.expires_at else "no limit"
    waking = "by the next call" if info.auto_resume else "by `wrenn resume`"
    return f"idle      {idle}\nlifetime  {end}\nresume    {waking}\n"
