"""`wrenn up`: from an empty machine to a running platform, in idempotent steps."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from wrenn.base.errors import Conflict, Forbidden, InternalError, NotFound
from wrenn.base.errors import WrennError as PlatformError
from wrenn.base.undo import Undo
from wrenn.cli.settings import images_dir, read_env, up_timeout_s
from wrenn.cli.up import database
from wrenn.cli.up.daemons import end_of_log, running
from wrenn.cli.up.envd import find_envd
from wrenn.cli.up.layout import Layout, write_private
from wrenn.cli.up.options import Address
from wrenn.cli.up.ports import check_ports
from wrenn.cli.up.progress import Progress
from wrenn.cli.up.registration import ensure_registration
from wrenn.cli.up.services import AGENT, CONTROL, SUPERVISOR, supervisor
from wrenn.cli.up.take_down import stop_programs
from wrenn.protocol.api import E2B_PREFIX
from wrenn.sdk import AuthenticationError, WrennError
from wrenn.sdk.health import platform_version

if TYPE_CHECKING:
    from wrenn.control.identity import KeyFormat

PROBE_TIMEOUT_S: Final = 3.0
WARM_UP_FACTOR: Final = 2.0
"""The default template may take so many times longer until it is booted than the programs until they respond; under emulation on a busy
machine it is half a minute."""

# Program -> Debian package that contains it. Requirements of image builds are checked when images are built.
_PROGRAMS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "nft": "nftables",
    "ip": "iproute2",
}


@dataclass(frozen=True, slots=True)
class Platform:
    """The result of `wrenn up`. `was_running`: nothing had to be done."""

    url: str
    was_running: bool


async def bring_up(layout: Layout, listen: Address, progress: Progress) -> Platform:
    """Start the platform and wait until it responds, with a first user, team and key in `D/env`.

    On failure or cancellation, the programs that this call started are stopped again.

    Raises:
        Forbidden: not root.
        NotFound: a program is missing; the message has the command that installs it.
        Conflict: it already runs on another address, or a port is in use; nothing was started.
        InternalError: a program did not start; the message has the end of its log.
    """
    _check_machine()
    up_timeout_s()  # a wrong one is refused before anything is started
    layout.make()
    async with layout.locked(progress.note):
        if running(layout, SUPERVISOR) is not None:
            known = read_env(layout.env).get("WRENN_BASE_URL")
            if known not in (None, listen.url):
                raise Conflict(f"The platform runs already on {known}: `wrenn down` first to move it.")
            if known is not None and await _answers(layout, listen):
                await _warm_up(layout, progress)
                return Platform(listen.url, was_running=True)
        else:
            check_ports(layout, listen)
        await _prepare(layout, listen, progress)
        async with Undo() as undo:
            with progress.step("Control plane and agent"):
                if running(layout, SUPERVISOR) is None:
                    supervisor(layout.data_dir, listen).start(layout)
                    undo.push("stop the programs", partial(stop_programs, layout))
                await _wait_ready(layout, listen)
            with progress.step("First user, team and API key"):
                await _ensure_keys(layout, listen)
            await _warm_up(layout, progress)
            undo.keep()
    return Platform(listen.url, was_running=False)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise Forbidden("`wrenn up` makes networks and virtual machines: run it as root (sudo wrenn up).")
    if missing := missing_packages():
        raise NotFound(
            f"Programs are missing; run: apt-get install --no-install-recommends {' '.join(missing)}"
        )


def missing_packages() -> list[str]:
    """Return the Debian packages of the programs that a host needs and that are not installed."""
    return sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})


async def _prepare(layout: Layout, listen: Address, progress: Progress) -> None:
    from wrenn.control.db.migrate import migrate
    from wrenn.storage.images import ensure_images

    with progress.step("Guest kernel and template"):
        await ensure_images(images_dir(layout.data_dir), envd=find_envd(), progress=progress.note)
    with progress.step("PostgreSQL"):
        url = await database.set_up(layout)
        await migrate(url)
    await ensure_registration(layout.data_dir, url, listen)


async def _wait_ready(layout: Layout, listen: Address) -> None:
    limit_s = up_timeout_s()
    deadline = time.monotonic() + limit_s
    while not await _answers(layout, listen):
        if running(layout, SUPERVISOR) is None:
            raise InternalError(f"The supervisor ended:\n{end_of_log(layout.log(SUPERVISOR))}")
        if time.monotonic() > deadline:
            silent = CONTROL if not await _control_answers(listen) else AGENT
            log = layout.log(silent)
            raise InternalError(
                f"The {silent} program did not answer within {limit_s:.0f} s (WRENN_UP_TIMEOUT_S). The end of {log}:\n{end_of_log(log)}"
            )
        await asyncio.sleep(0.1)


async def _warm_up(layout: Layout, progress: Progress) -> None:
    """Wait until the agent has booted the default template, so that the first create is as fast as later ones.

    A template that cannot be booted does not prevent anything else from running, so it is only reported.
    """
    from wrenn.agent.local_client import wait_warm

    limit_s = WARM_UP_FACTOR * up_timeout_s()
    with progress.step("Default template"):
        try:
            async with asyncio.timeout(limit_s):
                failure = await wait_warm(layout.data_dir)
        except (PlatformError, TimeoutError) as error:
            failure = str(error) or f"It is not booted after {limit_s:.0f} s."
        if failure:
            progress.note(f"the default template is not booted yet, the first create will do it: {failure}")


async def _answers(layout: Layout, listen: Address) -> bool:
    from wrenn.agent.local_client import agent_answers

    return await _control_answers(listen) and await agent_answers(layout.data_dir, timeout_s=PROBE_TIMEOUT_S)


async def _control_answers(listen: Address) -> bool:
    try:
        await platform_version(listen.url, timeout_s=PROBE_TIMEOUT_S)
    except WrennError:
        return False
    return True


async def _ensure_keys(layout: Layout, listen: Address) -> None:
    """Make sure that `D/env` has valid keys, one for this platform's own clients and one for those of e2b: the existing ones, or new ones."""
    from wrenn.control.identity import KeyFormat

    known = read_env(layout.env)
    wanted = {
        "WRENN_BASE_URL": listen.url,
        "WRENN_API_KEY": await _valid_key(known.get("WRENN_API_KEY"), KeyFormat.WRENN, layout, listen),
        "E2B_API_URL": f"{listen.url}{E2B_PREFIX}",
        "E2B_SANDBOX_URL": listen.url,
        "E2B_API_KEY": await _valid_key(known.get("E2B_API_KEY"), KeyFormat.E2B, layout, listen),
    }
    if known != wanted:
        lines = [f"{name}={value}" for name, value in wanted.items()]
        write_private(layout.env, "\n".join([*lines, f"export {' '.join(wanted)}"]) + "\n")


async def _valid_key(key: str | None, key_format: KeyFormat, layout: Layout, listen: Address) -> str:
    """Return the key if it is valid, else a new one of this form."""
    from wrenn.control.identity.bootstrap import bootstrap
    from wrenn.sdk import AsyncSandbox

    if key is not None:
        try:
            await AsyncSandbox.list(api_key=key, base_url=listen.url)
        except AuthenticationError:
            key = None
    return key or (await bootstrap(await database.ensure(layout.data_dir), key_format)).reveal()
