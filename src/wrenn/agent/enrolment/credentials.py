"""What an agent holds after its registration, in one file that only root can read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from wrenn.base.errors import InternalError, InvalidRequest
from wrenn.base.ids import HostId
from wrenn.linux.files import write_json

FILE: Final = "credentials.json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The identity of a registered host.

    Attributes:
        control_url: base URL of the control plane's API.
        host_id: wire id of the host.
        address: `HOST:PORT` that was registered.
        token, refresh_token: secrets for heartbeats, and for new credentials.
        key_pem, cert_pem: of the agent's server certificate.
        ca_cert_pem: the certificates that the control plane's may be signed by.
        issued_at_unix, expires_at_unix: life of the certificate, by its own dates.
    """

    control_url: str
    host_id: str
    address: str
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    key_pem: str = field(repr=False)
    cert_pem: str = field(repr=False)
    ca_cert_pem: str = field(repr=False)
    issued_at_unix: float
    expires_at_unix: float

    def is_renewal_due(self, now_unix: float) -> bool:
        """Whether at most a third of the certificate's life is left."""
        return now_unix >= self.expires_at_unix - (self.expires_at_unix - self.issued_at_unix) / 3


class CredentialsFile:
    """The file with the credentials in the agent's data folder. It is replaced atomically and survives a power failure."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE
        self._read_version: tuple[int, int] | None = None

    def load(self) -> Credentials | None:
        """Read the credentials; None: this host is not registered.

        Raises:
            InternalError: the file cannot be understood.
        """
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                self._read_version = found.st_ino, found.st_mtime_ns
                content = json.loads(file.read())
            credentials = Credentials(**content)
            HostId.parse(credentials.host_id)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, InvalidRequest) as error:
            raise InternalError(
                f"{self.path} cannot be read as the credentials of a host: move the file away, and register this host"
                " again with `wrenn agent join` and a new token."
            ) from error
        return credentials

    def load_changed(self) -> Credentials | None:
        """Read the credentials if another program has replaced the file since `load`, `load_changed` or `save`."""
        version = self._version()
        return self.load() if version is not None and version != self._read_version else None

    def save(self, credentials: Credentials) -> None:
        """Replace the file.

        Raises:
            StorageFull: the disk is full; the former file is unchanged.
        """
        write_json(self.path, asdict(credentials), durable=True)
        self._read_version = self._version()

    def remove(self) -> None:
        """Remove the file; does nothing if there is none."""
        self.path.unlink(missing_ok=True)

    def _version(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns
