"""`wrenn admin rotate-ca`: replace the internal CA while everything runs."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.env_file import EnvFileOption, load_env_file
from wrenn.cli.exits import Exit
from wrenn.cli.images import DataDirOption
from wrenn.cli.settings import data_dir

if TYPE_CHECKING:
    from wrenn.control.hosts.ca_rollout import CaRollout, Change, RolloutStatus
    from wrenn.control.hosts.rotation import CaRotation

_POLL_S = 1.0


def rotate_ca(
    *,
    status: Annotated[bool, typer.Option("--status", help="Change nothing: show how far it is.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Begin a rotation although the CA is less than a day old.")
    ] = False,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="How long to wait for replicas and hosts in each step."
        ),
    ] = 300.0,
    keep_in: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            file_okay=False,
            help="With WRENN_CA_CERT and WRENN_CA_KEY: where the files are written, in DIR/rotation. Without: in `pki` of the data folder.",
        ),
    ] = None,
    env_file: EnvFileOption = None,
    data_dir_: DataDirOption = None,
) -> None:
    """Replace the internal CA of hosts and control plane while everything runs.

    First the new CA is trusted beside the former one, then it signs, at last the former one is not trusted any more.
    Each step begins when all replicas and all hosts that are online have taken the former step. It may be
    interrupted at any point: run it again, and it goes on. Run it where a replica runs, with the replica's settings.

    With the CA in files (`pki` in the data folder) it does everything. With WRENN_CA_CERT and WRENN_CA_KEY it writes
    what to set into files of mode 600 and says what to do. These hold the new key, so their folder must outlive the
    restarts of the replicas: in a container give --folder with a volume that stays, the same one each time. Hosts that are offline meanwhile take the new CA when they
    come back.
    """
    load_env_file(env_file)
    done = asyncio.run(
        _run(only_status=status, again=again, wait_s=wait_s, keep_in=keep_in, data_dir_=data_dir_)
    )
    if not done:
        raise typer.Exit(Exit.UNAVAILABLE)


async def _run(
    *, only_status: bool, again: bool, wait_s: float, keep_in: Path | None, data_dir_: DataDirOption
) -> bool:
    from wrenn.base.errors import InvalidRequest, InvalidState
    from wrenn.cli.up import database
    from wrenn.control.db import Database
    from wrenn.control.db.migrate import is_migrated, migrate
    from wrenn.control.hosts.authority import Authority
    from wrenn.control.hosts.ca_rollout import CaRollout
    from wrenn.control.hosts.rotation import CaRotation

    folder = data_dir(data_dir_)
    settings = (os.environ.get("WRENN_CA_CERT", ""), os.environ.get("WRENN_CA_KEY", ""))
    given = Authority.from_settings(*settings)
    if keep_in is not None and given is None:
        raise InvalidRequest("--folder is for a CA in WRENN_CA_CERT and WRENN_CA_KEY, which are not set.")
    url = await database.ensure(folder)
    if not only_status:
        await migrate(url)
    opened = Database(url)
    try:
        rotation = CaRotation(folder / "pki", given, settings=settings, keep_in=keep_in)
        rollout = CaRollout(opened, rotation)
        if only_status:
            if not await is_migrated(opened):
                raise InvalidState(
                    "The database has the schema of a former release, which knows no rotation: start a replica of this release first."
                )
            _show(await rollout.status())
            return True
        return await _rotate(rollout, rotation, again=again, wait_s=wait_s)
    finally:
        await opened.close()


async def _rotate(rollout: CaRollout, rotation: CaRotation, *, again: bool, wait_s: float) -> bool:
    """Take the steps that can be taken. False: something must happen before the next one."""
    from wrenn.control.hosts.ca_rollout import Change

    while True:
        if not await _waited(rollout, wait_s):
            return False
        change = await rollout.advance(again=again)
        if change is Change.ENDED:
            _say(
                "The rotation has ended: only the new CA is trusted. The files that are not needed any more are removed."
            )
            return True
        if rotation.changes_settings:
            _say(_instructions(change, rotation))
            return False
        if change is Change.BEGUN:
            _say("The new CA is trusted beside the one that signs.")
        elif change is Change.SWITCHED:
            _say("The new CA signs. The former one is still trusted.")
        elif change is Change.FINISHED:
            _say("The former CA is not trusted any more. The rotation has ended.")
            _show(await rollout.status())
            return True


async def _waited(rollout: CaRollout, wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    announced = False
    while (found := await rollout.status()).waiting:
        if time.monotonic() >= end:
            _show(found)
            _say(
                "Not all are ready for the next step. Restart the replicas that are named, look at the agents of the hosts, and run this"
                " command again. A replica that has another folder for its files needs ca.pem and ca.key of this one."
            )
            return False
        if not announced:
            _say(f"Waiting for {len(found.waiting)} replicas and hosts.")
            announced = True
        await asyncio.sleep(_POLL_S)
    return True


def _instructions(change: Change, rotation: CaRotation) -> str:
    from wrenn.control.hosts.ca_rollout import Change

    name, file = ("WRENN_CA_KEY", "ca.key") if change is Change.SWITCHED else ("WRENN_CA_CERT", "ca.pem")
    what = {
        Change.BEGUN: "both CAs are trusted, the former one signs",
        Change.SWITCHED: "the new CA signs, both are trusted",
        Change.FINISHED: "only the new CA is trusted",
        Change.NOTHING: "nothing changes",
        Change.ENDED: "nothing changes",
    }[change]
    return (
        f"Next step: {what}.\n"
        f"1. Set {name} to the content of {rotation.folder / file} on all replicas; leave the other settings as they are."
        " Where it is the path of a file, copy the file out of this folder, which is deleted at the end.\n"
        f"2. Restart the replicas one after the other. {rotation.folder} holds the new key and must outlive that: in a container it"
        " must be on a volume that stays (--folder).\n"
        "3. Run this command again, with the new settings and the same folder."
    )


def _show(found: RolloutStatus) -> None:
    _say(f"Signs: {found.signer}")
    for other in found.others:
        _say(f"Trusted as well: {other}")
    _say(f"Rotation: {found.step}")
    for line in found.waiting:
        _say(f"Not ready: {line}")
    for host in found.offline:
        seen = (
            "never"
            if host.last_heartbeat_at is None
            else f"last seen {host.last_heartbeat_at:%Y-%m-%d %H:%M} UTC"
        )
        _say(
            f"Offline: host {host.name} ({host.host_id}), {seen}. It takes the new CA when it is back; after 60 days it needs a"
            f" new token: `wrenn hosts token {host.host_id}`."
        )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
