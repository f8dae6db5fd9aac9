"""Images that builds and imports made: `images/<img-…>/{rootfs.ext4,manifest.json}` of the data folder.

An image is immutable. It is made in a draft beside its place; the manifest is written last, then the folder is renamed: a
folder without manifest is no image. Bases have hard links to its file, so its removal takes it away from nobody.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from wrenn.base.errors import InvalidRequest, InvalidState, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId, random_hex
from wrenn.linux.command import CommandError
from wrenn.linux.files import fsync_path, remove_tree, translated, write_json
from wrenn.linux.threads import run_to_end
from wrenn.linux.trees import remove_any_tree
from wrenn.storage.images.container_config import ContainerConfig

_FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
ROOTFS: Final = "rootfs.ext4"
DRAFT_PREFIX: Final = ".draft-"
_BLOCK_B: Final = 512

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image besides its content.

    Attributes:
        content: identifies the content: equal for copies of one image of the store, otherwise unique.
        uploaded: the store has it.
        uploaded_b: bytes that its upload sent.
        reference: of a container image, with the digest that was pulled.
        config: of one that was made from a container image.
    """

    content: str
    uploaded: bool = False
    uploaded_b: int = 0
    reference: str = ""
    config: ContainerConfig | None = None

    @classmethod
    def new(cls, *, reference: str = "", config: ContainerConfig | None = None) -> ImageFacts:
        """Return the facts of an image that was made just now."""
        return cls(random_hex(16), reference=reference, config=config)


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image of this host.

    Attributes:
        size_b: of its file system; the file is sparse.
        allocated_b: that it takes on the host's disk.
        used_at: when it was made or last marked as used; Unix time.
    """

    image_id: ImageId
    rootfs: Path
    size_b: int
    allocated_b: int
    facts: ImageFacts
    used_at: float


class ImageFolder:
    """The images of a data folder, and the drafts of those that are being prepared. Methods that are not `async` block."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def ids(self) -> list[ImageId]:
        """Return the ids of all images, sorted; their manifests are not read."""
        if not self._root.is_dir():
            return []
        found = (ImageId.find(entry.name) for entry in self._root.iterdir())
        return sorted(image_id for image_id in found if image_id is not None)

    def find(self, image_id: ImageId) -> LocalImage:
        """Return an image after checking the size of its file.

        Raises:
            NotFound: it is not on this host.
            InvalidState: it is damaged.
        """
        folder = self._root / str(image_id)
        damaged = InvalidState(f"Image {image_id} is damaged on this host.", context={"folder": str(folder)})
        try:
            content = json.loads((folder / _MANIFEST).read_bytes())
            used_at = folder.stat().st_mtime
        except FileNotFoundError as error:
            raise NotFound(f"Image {image_id} is not on this host.") from error
        except ValueError as error:
            raise damaged from error
        try:
            facts, size_b = _parsed(content)
            status = (folder / ROOTFS).stat()
        except (OSError, KeyError, TypeError, ValueError, InvalidRequest) as error:
            raise damaged from error
        if status.st_size != size_b:
            raise damaged
        return LocalImage(image_id, folder / ROOTFS, size_b, status.st_blocks * _BLOCK_B, facts, used_at)

    async def new_draft(self, image_id: ImageId) -> Path:
        """Create and return the empty folder in which an image is prepared. One that was left there is removed.

        Raises:
            StorageFull: no room.
        """
        draft = self._draft(image_id)
        await remove_any_tree(draft)
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
            draft.mkdir(mode=0o700)
        except OSError as error:
            raise translated(error, doing="create the image's folder") from error
        return draft

    async def publish(self, draft: Path, image_id: ImageId, facts: ImageFacts) -> LocalImage:
        """Durably make the file `rootfs.ext4` of the draft the image of this id. All else in the draft is removed.

        A damaged image of this id is replaced.

        Raises:
            StorageFull: no room.
        """
        rootfs = draft / ROOTFS
        for entry in draft.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                await remove_any_tree(entry)
        await run_to_end(lambda: _finish(draft))
        await fault_point("images.image.before_manifest")
        try:
            write_json(draft / _MANIFEST, _manifest(facts, rootfs.stat().st_size), durable=True)
        except OSError as error:
            raise translated(error, doing="write the image's manifest") from error
        await fault_point("images.image.before_rename")
        remove_tree(self._root / str(image_id))
        draft.rename(self._root / str(image_id))
        fsync_path(self._root)
        return self.find(image_id)

    def mark_used(self, image_id: ImageId) -> None:
        """Record that the image is used now. Does nothing if it is not on this host."""
        with suppress(FileNotFoundError):
            os.utime(self._root / str(image_id))

    def set_uploaded(self, image: LocalImage, *, uploaded_b: int) -> LocalImage:
        """Record that the store has the image. Does nothing if it was removed meanwhile."""
        changed = replace(image, facts=replace(image.facts, uploaded=True, uploaded_b=uploaded_b))
        try:
            write_json(
                self._root / str(image.image_id) / _MANIFEST,
                _manifest(changed.facts, image.size_b),
                durable=True,
            )
        except FileNotFoundError:
            return image
        return changed

    async def remove(self, image_id: ImageId) -> None:
        """Remove an image, at once for all who look for it. A missing one is ignored."""
        gone = self._root / f"{DRAFT_PREFIX}gone-{random_hex(8)}"
        try:
            (self._root / str(image_id)).rename(gone)
        except FileNotFoundError:
            return
        await fault_point("images.image.removal")
        await run_to_end(lambda: remove_tree(gone))

    def drafts(self) -> list[Path]:
        """Return the folders of images that are being prepared or removed."""
        return sorted(self._root.glob(f"{DRAFT_PREFIX}*"))

    async def sweep(self) -> None:
        """Remove what a killed agent left. No image may be in preparation."""
        for draft in self.drafts():
            try:
                await remove_any_tree(draft)
            except CommandError as error:
                # `wrenn doctor` names it, and the next start tries again.
                _log.warning(
                    "draft of an image not removed", extra={"draft": draft.name, "cause": error.message}
                )

    def _draft(self, image_id: ImageId) -> Path:
        return self._root / f"{DRAFT_PREFIX}{image_id}"


def _finish(draft: Path) -> None:
    """Remove everything but the image's file, make it root's and read-only, and flush it."""
    for entry in draft.iterdir():
        if entry.name != ROOTFS:
            entry.unlink()
    rootfs = draft / ROOTFS
    os.chown(rootfs, os.geteuid(), os.getegid())
    rootfs.chmod(0o400)
    fsync_path(rootfs)


def _manifest(facts: ImageFacts, size_b: int) -> Mapping[str, object]:
    return {
        "format": _FORMAT,
        "size_b": size_b,
        "content": facts.content,
        "uploaded": facts.uploaded,
        "uploaded_b": facts.uploaded_b,
        "reference": facts.reference,
        "config": facts.config.to_json() if facts.config is not None else None,
    }


def _parsed(content: object) -> tuple[ImageFacts, int]:
    """Raises KeyError, TypeError, ValueError or InvalidRequest for anything but a manifest."""
    if not isinstance(content, dict):
        raise TypeError("a manifest is an object")
    given = cast("dict[str, object]", content)
    match given:
        case {
            "format": int(version),
            "size_b": int(size_b),
            "content": str(identity),
            "uploaded": bool(uploaded),
            "uploaded_b": int(uploaded_b),
            "reference": str(reference),
            "config": config,
        } if version == _FORMAT:
            parsed = None if config is None else ContainerConfig.of_json(config)
            return ImageFacts(identity, uploaded, uploaded_b, reference, parsed), size_b
        case _:
            raise ValueError("not a manifest of this format")
