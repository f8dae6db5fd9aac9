"""Values of images."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from wrenn.base.ids import HostId, ImageId, TeamId

PLATFORM: Final = "platform"
_CHUNKS: Final = "chunks"


class ImageStatus(enum.StrEnum):
    """The status of an image's row."""

    PENDING = "pending"
    """Somebody has it made, under a lease."""
    READY = "ready"
    """It is in the store; templates may be made of it."""
    REMOVING = "removing"
    """No new template or sandbox is made of it; hosts and store remove it when nothing uses it any more."""


NEXT: Final[dict[ImageStatus, frozenset[ImageStatus]]] = {
    ImageStatus.PENDING: frozenset({ImageStatus.READY, ImageStatus.REMOVING}),
    ImageStatus.READY: frozenset({ImageStatus.REMOVING}),
    ImageStatus.REMOVING: frozenset(),
}
assert NEXT.keys() == set(ImageStatus), "every status says what may follow it"


def move(status: ImageStatus, to: ImageStatus) -> ImageStatus:
    """Return `to`, which may follow `status`; that it may is a matter of the program, not of its input."""
    assert to in NEXT[status], f"{status} -> {to}"
    return to


class ImageKind(enum.StrEnum):
    """What an image is."""

    TEMPLATE = "template"
    """The root file system of a template."""
    SANDBOX = "sandbox"
    """The saved state of a paused sandbox."""
    SNAPSHOT = "snapshot"
    """A snapshot that sandboxes are created from."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image's row, as the store of images needs it.

    Attributes:
        team_id: None: the platform's.
        kind: images of other kinds than `template` are in the store alone, and on no host.
        host_id: the host that prepares it and may upload it, while it is pending.
        manifest_digest: of its manifest in the store; None: it is not there (yet).
        key_id: the key of the store with which it is encrypted; None: it is not.
    """

    image_id: ImageId
    team_id: TeamId | None
    kind: ImageKind
    status: ImageStatus
    host_id: HostId | None
    manifest_digest: str | None
    key_id: str | None

    @property
    def owner(self) -> str:
        """The folder of its owner in the store."""
        return owner_name(self.team_id)


def owner_name(team_id: TeamId | None) -> str:
    """Return the name of the folder of a team, or of the platform, in the store."""
    return PLATFORM if team_id is None else str(team_id)


def team_of(owner: str) -> TeamId | None:
    """Return the team whose folder in the store has this name; None: it is the platform's. Raises InvalidRequest."""
    return None if owner == PLATFORM else TeamId.parse(owner)


def chunk_key(owner: str, name: str, key_id: str | None = None) -> str:
    """Return the key of a chunk in the store. `name` is `StoreKeys.chunk_name`: without encryption its digest."""
    return f"{chunks_prefix(owner, key_id)}/{name[:2]}/{name}"


def chunks_prefix(owner: str, key_id: str | None) -> str:
    """Return the folder of an owner's chunks that are encrypted with a key of the store, or are not."""
    return f"{owner}/{_CHUNKS}" if key_id is None else f"{owner}/{_CHUNKS}-{key_id}"


def key_id_of_folder(folder: str) -> tuple[bool, str | None]:
    """Return whether a folder of an owner has chunks, and the key with which they are encrypted."""
    kind, _, key_id = folder.partition("-")
    return kind == _CHUNKS, key_id or None


def manifests_prefix(owner: str, image_id: ImageId | None = None) -> str:
    """Return the folder of the manifests of an image, or of all images of an owner."""
    return f"{owner}/images" if image_id is None else f"{owner}/images/{image_id}"


def manifest_key(owner: str, image_id: ImageId, digest: str) -> str:
    """Return the key of a manifest in the store. Its digest is in it, so that none is ever replaced by another."""
    return f"{manifests_prefix(owner, image_id)}/{digest}.json"
