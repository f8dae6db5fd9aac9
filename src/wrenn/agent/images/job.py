"""What an image is made from, and how far that has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from wrenn.base.ids import ImageId, SandboxId
from wrenn.base.secrets import Secret
from wrenn.network import EgressPolicy
from wrenn.protocol.sealed_objects import CannotOpen, ObjectKey, key_id_of
from wrenn.storage.images import LocalImage


class Phase(StrEnum):
    """What is being done for an image."""

    WAITING = ""
    PULL = "pull"
    UNPACK = "unpack"
    PACK = "pack"
    FLATTEN = "flatten"
    FETCH = "fetch"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class StoredSource:
    """The image as it is in the store."""


@dataclass(frozen=True, slots=True)
class DiskSource:
    """The root disk of a paused sandbox of this host."""

    sandbox_id: SandboxId


@dataclass(frozen=True, slots=True)
class ContainerSource:
    """A container image of a registry.

    Attributes:
        reference: `registry/name:tag` or `registry/name@sha256:…`.
        disk_size_mb: of the file system that is made of it.
        policy: which destinations the download may reach, within what the host allows.
        insecure_registry: plain HTTP, or a certificate that cannot be verified, is accepted.
        archive_url: signed, of an archive in the store that the image is in; `reference` is its format then. None: a registry has it.
        archive_name, archive_keys: with which the archive is decrypted, if it is encrypted.
        scope: for whom it is pulled: a pulled image is used again within its scope alone; empty: never.
    """

    reference: str
    disk_size_mb: int
    policy: EgressPolicy = field(default_factory=EgressPolicy)
    username: str = ""
    password: Secret | None = None
    insecure_registry: bool = False
    scope: str = ""
    archive_url: Secret | None = None
    archive_name: str = ""
    archive_keys: tuple[ObjectKey, ...] = ()

    def opened(self, archive: bytes) -> bytes:
        """Return the content of the archive as the store has it. Raises InvalidRequest: it cannot be decrypted."""
        key_id = key_id_of(archive)
        if key_id is None:
            return archive
        for key in self.archive_keys:
            if key.key_id == key_id:
                return key.open(archive, self.archive_name)
        raise CannotOpen("The archive in the store is encrypted with a key that is not known.")


Source = StoredSource | DiskSource | ContainerSource


@dataclass(slots=True)
class Progress:
    """How far a job has come. 0 bytes: not known."""

    phase: Phase = Phase.WAITING
    done_b: int = 0
    total_b: int = 0

    def begin(self, phase: Phase) -> None:
        """Begin the next phase."""
        self.phase, self.done_b, self.total_b = phase, 0, 0

    def report(self, done_b: int, total_b: int) -> None:
        """Set how much of the phase is done."""
        self.done_b, self.total_b = done_b, total_b


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image could not be prepared, for the caller."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """The state of one image: ready, failed, or in preparation."""

    image_id: ImageId
    ready: LocalImage | None = None
    failure: Failure | None = None
    progress: Progress = field(default_factory=Progress)
