"""Bases of the simulated driver: almost empty folders, made without a boot."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wrenn.base.errors import NotFound
from wrenn.base.ids import ImageId, random_hex
from wrenn.base.undo import Undo
from wrenn.linux.container import make_root
from wrenn.linux.files import remove_tree, write_json
from wrenn.linux.trees import pack_tree, unpack_tree
from wrenn.storage.errors import DamagedBase
from wrenn.storage.images import ImageFolder
from wrenn.vm.bases import BASE_FORMAT, Facts
from wrenn.vm.driver import BootSource, Shape

_MANIFEST: Final = "manifest.json"
_ROOT: Final = "root"
_DIGEST: Final = "digest"
_ARCHIVE: Final = "root.tar"
TEMPLATES: Final[Mapping[str, str]] = {"minimal": ""}
"""Those of a host, unless a test says otherwise, with what identifies their content."""


class FolderBases:
    """The bases of a host as folders. Implements `wrenn.vm.bases.BaseStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def root_of(self, key: str) -> Path:
        """Return the folder that guests start with a copy of."""
        return self._root / key / _ROOT

    def publish(self, draft: Path, *, key: str, facts: Facts) -> None:
        """Make the finished folder `draft` the base of this key."""
        self._publish(draft, {"format": BASE_FORMAT, "key": key, "facts": dict(facts), "made": random_hex(8)})

    def _publish(self, draft: Path, manifest: dict[str, Any]) -> None:
        folder = self._root / manifest["key"]
        write_json(draft / _MANIFEST, manifest, durable=False)
        remove_tree(folder)
        draft.rename(folder)

    def find(self, key: str) -> bool:
        """Return whether the base exists."""
        if not (self._root / key / _MANIFEST).exists():
            return False
        if not self.root_of(key).is_dir() or self.facts_of(key) == {}:
            raise DamagedBase(f"Base {key} is not whole.")
        return True

    def content_digest(self, key: str) -> str:
        """Return a digest of the manifest, which differs each time that a base is made; of one that was restored the original's."""
        if not self.root_of(key).is_dir():
            raise DamagedBase(f"There is no base {key}.")
        try:
            manifest = (self._root / key / _MANIFEST).read_bytes()
            return json.loads(manifest).get("restored") or hashlib.sha256(manifest).hexdigest()
        except FileNotFoundError as error:
            raise DamagedBase(f"There is no base {key}.") from error
        except (ValueError, AttributeError) as error:
            raise DamagedBase(f"The manifest of base {key} cannot be read.") from error

    def facts_of(self, key: str) -> dict[str, str | int]:
        """Return the facts that a base was made from."""
        try:
            return dict(json.loads((self._root / key / _MANIFEST).read_text())["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    async def export(self, key: str, scratch: Path) -> dict[str, Path]:
        """Pack the base's folder into a file, and write its digest into another."""
        digest = scratch / _DIGEST
        digest.write_text(self.content_digest(key))
        return {_DIGEST: digest, _ARCHIVE: await export_tree(self.root_of(key), scratch / _ARCHIVE)}

    async def restore(self, files: Path, *, key: str, facts: Facts) -> None:
        """Unpack the files and make the folder the base of this key."""
        try:
            digest = (files / _DIGEST).read_text()
            await unpack_tree(files / _ARCHIVE, files / _ROOT)
        except FileNotFoundError as error:
            raise DamagedBase("A file of the base is missing.") from error
        for name in (_DIGEST, _ARCHIVE):
            (files / name).unlink()
        self._publish(files, {"format": BASE_FORMAT, "key": key, "facts": dict(facts), "restored": digest})


async def export_tree(folder: Path, archive: Path) -> Path:
    """Pack a folder into a new file; returns its path."""
    await pack_tree(folder, archive)
    return archive


class FolderBaseMaker:
    """Makes bases in some milliseconds. Implements `wrenn.agent.bases.BaseMaker`."""

    def __init__(self, images: ImageFolder, templates: Mapping[str, str] = TEMPLATES) -> None:
        """`templates`: what `templates` returns."""
        self._images = images
        self._templates = templates

    def templates(self) -> Mapping[str, str]:
        """Return the configured ones; the disks of all are alike."""
        return self._templates

    def facts(self, template: str, shape: Shape) -> Facts:
        """Return template, content and shape."""
        shape_facts = {"template": template, "vcpus": shape.vcpus, "memory_mb": shape.memory_mb}
        if (image_id := ImageId.find(template)) is not None:
            return {**shape_facts, "image": self._images.find(image_id).facts.content}
        if template not in self._templates:
            raise NotFound(f"There is no template {template!r}.")
        return {**shape_facts, "image": self._templates[template]}

    def metadata(self, template: str) -> Mapping[str, str]:
        """Return versions that say that there is no kernel."""
        del template
        return {"kernel_version": "none", "envd_version": "simulated"}

    def boot_source(self) -> BootSource:
        """Return one without content: every restore of this driver starts the guest agent anew, from its disk alone."""
        return BootSource(Path(os.devnull), Path(os.devnull), "")

    async def make(self, undo: Undo, draft: Path, key: str, template: str, shape: Shape) -> None:
        """Unpack the image, or make an almost empty folder."""
        del undo, key, shape
        if (image_id := ImageId.find(template)) is not None:
            await unpack_tree(self._images.find(image_id).rootfs, draft / _ROOT)
        else:
            await make_root(draft / _ROOT)
