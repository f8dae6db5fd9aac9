"""`wrenn pause`, `wrenn resume`, `wrenn move`, `wrenn recover`, `wrenn fork`, `wrenn timeout`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import typer

from wrenn.cli.each import do_each
from wrenn.cli.output import JsonOption, print_json, until
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import SandboxInfo

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")]
IdleOption = Annotated[
    int | None,
    typer.Option("--timeout", metavar="SECONDS", help="Pause it after this idle time; 0: never."),
]
LifetimeOption = Annotated[
    int | None,
    typer.Option("--lifetime", metavar="SECONDS", help="End of its lifetime, counted from now; 0: never."),
]
OnExpiryOption = Annotated[
    Literal["pause", "kill"] | None,
    typer.Option("--on-expiry", help="What happens at the end of its lifetime."),
]


def pause(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to pause.")],
    *,
    disk_only: Annotated[
        bool, typer.Option("--disk-only", help="Save only the files; they boot when they are resumed.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Pause sandboxes and save their memory, processes and files.

    A paused sandbox uses only disk space. Continues after a failure; the exit code is that of the last
    failure.
    """
    from wrenn.sdk import Sandbox

    def act(sandbox_id: str) -> None:
        with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
            sandbox.pause(keep_memory=not disk_only)

    use_credentials()
    do_each(ids, act, done="paused", json=json)


def resume(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to resume.")],
    *,
    disk_only: Annotated[
        bool, typer.Option("--disk-only", help="Boot them from their files, without what was in memory.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Resume paused sandboxes; their processes continue.

    Continues after a failure; the exit code is that of the last failure.
    """
    from wrenn.sdk import Sandbox

    def act(sandbox_id: str) -> None:
        with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
            sandbox.resume(keep_memory=not disk_only)

    use_credentials()
    do_each(ids, act, done="running", json=json)


def move(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes to move.")],
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="HOST_ID",
            help="The host. Needs `wrenn login` as an admin of the platform, or of the team whose host it is.",
        ),
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Pause a running sandbox, move it, and resume it there.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Move paused sandboxes to another host, with their memory, processes and files.

    They stay paused. A sandbox that cannot be moved stays where it is. Continues after a failure; the exit code is that of the last
    failure.
    """
    from wrenn.cli import credentials
    from wrenn.sdk import Sandbox
    from wrenn.sdk._sync.states import MOVE_TIMEOUT_S

    def act(sandbox_id: str) -> None:
        with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
            if pause and sandbox.is_running():
                sys.stderr.write(f"{sandbox_id}: paused while it is moved\n")
            sandbox.move(pause=pause)

    def act_as_admin(sandbox_id: str) -> None:
        # A key may choose no host.
        with credentials.account() as account:
            path = f"/v1/sandboxes/{quote(sandbox_id, safe='')}/move"
            account.call("POST", path, {"host_id": to, "pause": pause}, timeout_s=MOVE_TIMEOUT_S)

    if to is None:
        use_credentials()
    do_each(ids, act if to is None else act_as_admin, done="moved", json=json)


def recover(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sandboxes whose host is lost.")],
    *,
    json: JsonOption = False,
) -> None:
    """Start sandboxes whose host is lost on another host, from the state that the object store has of them.

    What happened since that state was saved is lost, also when the host is back. Continues after a failure; the exit code is that of
    the last failure.
    """
    from wrenn.sdk import Sandbox

    def act(sandbox_id: str) -> None:
        with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
            saved_at = sandbox.recover()
        sys.stderr.write(f"{sandbox_id}: as it was at {saved_at.isoformat()}\n")

    use_credentials()
    do_each(ids, act, done="recovered", json=json)


def fork(
    sandbox_id: IdArgument,
    *,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="Number of copies.")] = 1,
    json: JsonOption = False,
) -> None:
    """Copy a running sandbox and print the ids of the copies.

    The copies have its memory, processes and files. The sandbox itself is suspended only briefly.
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
        int | None, typer.Argument(metavar="[MB]", help="New size; without it, nothing changes.")
    ] = None,
    *,
    json: JsonOption = False,
) -> None:
    """Enlarge the disk of a sandbox, and print its size in MB.

    A sandbox that was suspended because it used up its share of the host's disk gets a larger share and
    continues.
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
        bool, typer.Option("--extend-only", help="Never move the end of its lifetime to an earlier time.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Change and print the time limits of a sandbox.

    Limits without an option are not changed; without options nothing changes.
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
