"""The steps of `wrenn agent join`. Each may be repeated."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wrenn.base.addresses import host_and_port
from wrenn.base.errors import Conflict, Forbidden, InternalError, InvalidRequest, NotFound
from wrenn.cli.join.service import AgentService
from wrenn.cli.settings import images_dir
from wrenn.cli.up.daemons import running
from wrenn.cli.up.envd import find_envd
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.progress import Progress
from wrenn.cli.up.services import SUPERVISOR
from wrenn.linux.command import run

DEFAULT_PORT: Final = 8010
_START_TIMEOUT_S: Final = 60.0
_INSTALL_TIMEOUT_S: Final = 900.0
_PROBE_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Joined:
    """A host that is online. `log`: how to read the agent's log."""

    host_id: str
    address: str
    runs_as: str
    log: str


class Joining:
    """Makes this machine a host of the control plane at `url`.

    Raises:
        InvalidRequest: `url`, `address` or `listen` cannot be used.
    """

    def __init__(
        self, data_dir: Path, url: str, *, address: str | None, listen: str | None, ca_file: Path | None
    ) -> None:
        self._data_dir = data_dir
        self._url = _checked_url(url)
        self._address = address or _detected_address(self._url)
        self._listen = listen or _default_listen(self._address)
        for name, text in (("--address", self._address), ("--listen", self._listen)):
            if host_and_port(text) is None:
                raise InvalidRequest(f"{name} must be HOST:PORT, not {text!r}.")
        self._service = AgentService(
            data_dir,
            {
                "WRENN_DATA_DIR": str(data_dir),
                "WRENN_IMAGES_DIR": str(images_dir(data_dir)),
                "WRENN_AGENT_LISTEN": self._listen,
                "WRENN_AGENT_ADDRESS": self._address,
                **_proxy_settings(),
                **({} if ca_file is None else {"WRENN_CP_CA_FILE": str(ca_file.absolute())}),
            },
        )

    async def run(self, token: str, progress: Progress) -> Joined:
        """Set up what is missing, register, start the agent, and wait until the control plane has heard from it.

        Raises:
            Forbidden: not root. Conflict: the data folder is that of a platform that runs. Unauthorized: the token is wrong, used or expired.
            WrennError: a step failed; the message says which and what to do.
        """
        from wrenn.agent.enrolment import CredentialsFile, heartbeat_once, register
        from wrenn.agent.settings import Settings

        if os.geteuid() != 0:
            raise Forbidden("`wrenn agent join` makes networks and virtual machines: run it as root.")
        if running(Layout(self._data_dir), SUPERVISOR) is not None:
            raise Conflict(
                f"A platform that `wrenn up` started runs in {self._data_dir} and has this host already: `wrenn down`"
                " it first, or choose another --data-dir."
            )
        settings = Settings.from_environment({**os.environ, **self._service.environment})
        await self._install_packages(progress)
        await self._ensure_images(progress)
        with progress.step("Registration"):
            progress.note(f"this host is reached at {self._address}")
            credentials = await register(self._url, token, settings)
        with progress.step("Host agent"):
            await self._service.start()
            await self._wait_ready()
            # The agent may have renewed them already, and its heartbeat revoked those of the registration.
            await heartbeat_once(CredentialsFile(self._data_dir).load() or credentials, settings)
        with progress.step("Check of the machine"):
            await self._check(settings, progress)
        return Joined(credentials.host_id, self._address, self._service.runs_as, self._service.log)

    async def _install_packages(self, progress: Progress) -> None:
        from wrenn.agent.images.container import missing_packages as missing_for_containers
        from wrenn.cli.up.bring_up import missing_packages
        from wrenn.storage.images import missing_build_packages

        missing = sorted({*missing_packages(), *missing_build_packages(), *missing_for_containers()})
        if not missing:
            return
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        if shutil.which("apt-get") is None:
            raise NotFound(f"Programs are missing that Debian has in these packages: {' '.join(missing)}")
        with progress.step(f"Packages {' '.join(missing)}"):
            names = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
            environment = {"DEBIAN_FRONTEND": "noninteractive"} | {
                name: os.environ[name] for name in names if name in os.environ
            }
            await run(["apt-get", "--quiet", "update"], timeout_s=_INSTALL_TIMEOUT_S, env=environment)
            await run(command, timeout_s=_INSTALL_TIMEOUT_S, env=environment)

    async def _ensure_images(self, progress: Progress) -> None:
        from wrenn.storage.images import ensure_images

        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before anything of this host is in it, so that it is known to be ours as a whole.
        Layout(self._data_dir).make()
        with progress.step("Guest kernel and template"):
            await ensure_images(images_dir(self._data_dir), envd=find_envd(), progress=progress.note)

    async def _wait_ready(self) -> None:
        from wrenn.agent.local_client import agent_answers

        deadline = time.monotonic() + _START_TIMEOUT_S
        while not await agent_answers(self._data_dir, timeout_s=_PROBE_TIMEOUT_S):
            if time.monotonic() > deadline:
                raise InternalError(
                    f"The agent did not start within {_START_TIMEOUT_S:.0f} s; its log: {self._service.log}\n"
                    f"{self._service.end_of_log()}".rstrip()
                )
            await asyncio.sleep(0.2)

    async def _check(self, settings: object, progress: Progress) -> None:
        from wrenn.agent import doctor
        from wrenn.agent.settings import Settings

        assert isinstance(settings, Settings)
        report = await doctor.examine(settings)
        for check in report.checks:
            if not check.ok:
                progress.note(f"{check.name}: {check.detail}. {check.hint}")
        if report.leftovers:
            progress.note(f"{len(report.leftovers)} leftovers: `wrenn doctor` lists them")


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        name, port = parts.hostname, parts.port
    except ValueError:  # no port, or brackets that are not closed
        name, port = None, None
        parts = urlsplit("")
    is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not name or port == 0 or not is_plain:
        raise InvalidRequest("URL must be like https://api.example.com, perhaps with a port and a path.")
    if parts.scheme == "http" and not _is_loopback(name):
        raise InvalidRequest(
            "URL must begin with https://: without TLS anybody on the way could take this host's credentials."
        )
    return text.rstrip("/")


def _default_listen(address: str) -> str:
    """Return where to listen: at the address itself if it is one of this machine, otherwise (a name, NAT) everywhere."""
    place = host_and_port(address)
    if place is None:
        return address
    host, port = place
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return f"0.0.0.0:{port}"
    return address


def _proxy_settings() -> dict[str, str]:
    """Return the settings of the proxy through which this machine reaches others, for the agent too."""
    names = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
    return {name: value for name in names if (value := os.environ.get(name))}


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _detected_address(url: str) -> str:
    """Return the address of this machine from which it reaches the control plane, with the default port."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, target = found[0]
        # Connecting a datagram socket sends nothing: the kernel only chooses the route.
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            host = str(probe.getsockname()[0])
    except OSError as error:
        raise InvalidRequest(
            f"The address of this host cannot be detected ({error}): give it with --address HOST:PORT."
        ) from error
    return f"[{host}]:{DEFAULT_PORT}" if ":" in host else f"{host}:{DEFAULT_PORT}"
