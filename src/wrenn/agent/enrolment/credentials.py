"""What an agent holds after its registration, in one file that only root can read, and beside it whose files are in the folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from wrenn.base.errors import InternalError, InvalidRequest
from wrenn.base.ids import HostId
from wrenn.linux.files import write_json

FILE: Final = "credentials.json"
HOST_FILE: Final = "host.json"
_LOCK: Final = ".credentials.lock"


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
    """The file with the credentials in the agent's data folder. It is replaced atomically and survives a power failure.

    Another file has the id of the host. It is no secret, and tells whose sandboxes are in the folder when the credentials are lost.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE
        self.host_path = data_dir / HOST_FILE
        self._lock_path = data_dir / _LOCK
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
                f"{self.path} cannot be read as the credentials of a host: register it again with `wrenn agent join` and a new"
                " token for the same host (`wrenn hosts token HOST`)."
            ) from error
        return credentials

    def host_id(self) -> str | None:
        """Return the wire id of the host whose files are in the folder; None: no file says that.

        Raises:
            InternalError: a file cannot be understood.
        """
        try:
            content = json.loads(self.host_path.read_bytes())
            return str(HostId.parse(content["host_id"]))
        except FileNotFoundError:
            credentials = self.load()
            return None if credentials is None else credentials.host_id
        except (ValueError, TypeError, KeyError, InvalidRequest) as error:
            raise InternalError(
                f'{self.host_path} must be {{"host_id": "host-…"}}, with the id of the host whose files are in this folder'
                " (`wrenn hosts list`)."
            ) from error

    def keep_host_id(self, host_id: str) -> None:
        """Store whose files are in the folder, if no file says that."""
        if not self.host_path.exists():
            write_json(self.host_path, {"host_id": host_id}, durable=True)

    def load_changed(self) -> Credentials | None:
        """Read the credentials if another program has replaced the file since `load`, `load_changed` or `save`."""
        version = self._version()
        return self.load() if version is not None and version != self._read_version else None

    def save(self, credentials: Credentials) -> None:
        """Replace the file, and store whose files are in the folder from now on.

        Raises:
            StorageFull: the disk is full; the former credentials are unchanged.
        """
        with self._locked():
            self._save(credentials)

    def save_unless_changed(self, credentials: Credentials) -> Credentials:
        """Replace the file, unless another program has since `load`, `load_changed` or `save`. Returns what it contains then.

        Raises:
            StorageFull: as `save`.
        """
        with self._locked():
            changed = self.load_changed()
            if changed is None:
                self._save(credentials)
            return changed or credentials

    def _save(self, credentials: Credentials) -> None:
        # First: if the agent is killed in between, what is in the folder is the new host's all the same.
        if not self.host_path.exists() or self.host_id() != credentials.host_id:
            write_json(self.host_path, {"host_id": credentials.host_id}, durable=True)
        write_json(self.path, asdict(credentials), durable=True)
        self._read_version = self._version()

    def remove(self, host_id: str) -> None:
        """Remove what the folder has of a host that was deleted. Does nothing if the machine is another host by now."""
        with self._locked():
            if self.host_id() == host_id:
                self.path.unlink(missing_ok=True)
                self.host_path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Keep other programs from changing the files."""
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _version(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns
