"""Obtains credentials: with a one-time token, or with the refresh token of those that the host has."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wrenn.agent.enrolment.control_client import ControlClient
from wrenn.agent.enrolment.credentials import Credentials, CredentialsFile
from wrenn.agent.enrolment.key_pair import KeyPair, new_key_pair, validity_of
from wrenn.agent.enrolment.pending import PendingRegistration
from wrenn.agent.enrolment.server_tls import require_usable
from wrenn.agent.machine import measure
from wrenn.agent.settings import Settings
from wrenn.base.errors import (
    AgentFailure,
    DeadlineExceeded,
    InvalidState,
    RateLimited,
    Unavailable,
    WrennError,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId
from wrenn.base.units import GIB, MIB

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_TRY_AGAIN: Final = (Unavailable, DeadlineExceeded, RateLimited)


class NotRegistered(InvalidState):
    """The host has no credentials; starting the agent again does not help."""


async def enrolled(settings: Settings) -> Credentials:
    """Return the host's credentials. A registration that is pending is made first, as soon as the control plane answers.

    Raises:
        NotRegistered: it has none.
        WrennError: the control plane refused the registration.
    """
    file = CredentialsFile(settings.data_dir)
    pending = PendingRegistration.load(settings.data_dir)
    if pending is not None:
        await _make_pending(pending, settings)
    credentials = file.load()
    if credentials is None:
        raise NotRegistered(
            "This host is not registered: `wrenn agent join URL` does it, with a token from `wrenn hosts create`, or from"
            " `wrenn hosts token HOST` if it was registered before."
        )
    # Agents of former releases have not stored it.
    file.keep_host_id(credentials.host_id)
    return credentials


async def _make_pending(pending: PendingRegistration, settings: Settings) -> None:
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await register(pending.control_url, pending.token, settings)
        except _TRY_AGAIN as error:
            if pause_s >= 1:
                _log.warning("not registered yet", extra={"cause": error.message})
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        except WrennError:
            # A token that was refused will be refused again.
            PendingRegistration.remove(settings.data_dir)
            raise
        else:
            PendingRegistration.remove(settings.data_dir)
            return


async def register(control_url: str, token: str, settings: Settings) -> Credentials:
    """Register this host with a one-time token, and store the credentials.

    Raises:
        Unauthorized: the token is wrong, used or expired. Unavailable, DeadlineExceeded: the control plane does not
        answer. StorageFull: the credentials cannot be stored; a new token is needed, and those that the host has stay valid. InvalidState: the data folder has sandboxes,
        and no file says of which host. Conflict: they are another host's than the token is for, or that host has sandboxes and
        this machine has none of their files.
    """
    file = CredentialsFile(settings.data_dir)
    former_id = _host_of_content(settings.data_dir, file)
    machine = measure(settings.data_dir)
    key_pair = new_key_pair()
    body: dict[str, object] = {
        "token": token,
        "address": settings.advertised_address,
        "csr_pem": key_pair.csr_pem,
        "arch": platform.machine(),
        "cpu_cores": machine.cpu_cores,
        "memory_mb": machine.memory_b // MIB,
        "disk_gb": machine.disk_b // GIB,
    }
    if former_id is not None:
        # The control plane refuses a token of another host, before it is used up: what that host has not placed here
        # would be removed.
        body["former_host_id"] = former_id
    async with ControlClient(control_url, settings.control_ca) as client:
        answer = await client.register(body)
    await fault_point("agent.register.after_answer")
    credentials = _credentials(answer, key_pair, control_url, settings.advertised_address)
    file.save(credentials)
    _log.info("host registered", extra={"host_id": credentials.host_id})
    return credentials


def _host_of_content(data_dir: Path, file: CredentialsFile) -> str | None:
    """Return the id of the host whose sandboxes or snapshots are in the data folder; None: there are none.

    Raises:
        InvalidState: there are some, and no file says whose.
    """
    folders = (data_dir / "sandboxes", data_dir / "snapshots")
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in folders):
        return None
    host_id = file.host_id()
    if host_id is None:
        raise InvalidState(
            f"{data_dir} has sandboxes or templates, and no file says of which host; registered as another one, this machine would"
            f' lose them. Write {{"host_id": "host-…"}} with the id of that host (`wrenn hosts list`) to {file.host_path}, and join'
            " with a token for it (`wrenn hosts token HOST`), or use another --data-dir."
        )
    return host_id


async def refresh(
    client: ControlClient, credentials: Credentials, file: CredentialsFile, *, address: str
) -> Credentials:
    """Exchange the credentials for new ones with a new key, and store them.

    The former ones stay valid until the new ones are used, so that it may fail at any point and be repeated.

    Raises:
        Unauthorized: the refresh token is not valid any more: this host must be registered again.
        Unavailable, DeadlineExceeded: the control plane does not answer. StorageFull: they cannot be stored.
    """
    key_pair = new_key_pair()
    answer = await client.refresh(
        {"refresh_token": credentials.refresh_token, "csr_pem": key_pair.csr_pem, "address": address}
    )
    await fault_point("agent.refresh.after_answer")
    # If the host was registered again meanwhile, that revoked what this answer brought.
    stored = file.save_unless_changed(_credentials(answer, key_pair, credentials.control_url, address))
    await fault_point("agent.refresh.after_save")
    return stored


def _credentials(answer: Mapping[str, Any], key_pair: KeyPair, control_url: str, address: str) -> Credentials:
    try:
        host_id = str(HostId.parse(answer["host"]["id"]))
        cert_pem = str(answer["cert_pem"])
        issued_at_unix, expires_at_unix = validity_of(cert_pem)
        credentials = Credentials(
            control_url=control_url,
            host_id=host_id,
            address=address,
            token=str(answer["token"]),
            refresh_token=str(answer["refresh_token"]),
            key_pem=key_pair.key_pem,
            cert_pem=cert_pem,
            ca_cert_pem=str(answer["ca_cert_pem"]),
            issued_at_unix=issued_at_unix,
            expires_at_unix=expires_at_unix,
        )
    except (KeyError, TypeError, ValueError, WrennError) as error:
        raise AgentFailure("The control plane's credentials cannot be read: is its URL right?") from error
    require_usable(credentials)
    return credentials
