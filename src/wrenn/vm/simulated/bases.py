"""Bases of the simulated driver: almost empty folders, made without a boot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from wrenn.base.errors import NotFound
from wrenn.base.ids import random_hex
from wrenn.base.undo import Undo
from wrenn.linux.container import make_root
from wrenn.linux.files import remove_tree, write_json
from wrenn.linux.trees import unpack_tree
from wrenn.storage.errors import DamagedBase
from wrenn.storage.images import ImageFolder, image_id_of
from wrenn.vm.bases import BASE_FORMAT, Facts
from wrenn.vm.driver import Shape

_MANIFEST: Final = "manifest.json"
_ROOT: Final = "root"


class FolderBases:
    """The bases of a host as folders. Implements `wrenn.vm.bases.BaseStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def root_of(self, key: str) -> Path:
        """Return the folder that guests start with a copy of."""
        return self._root / key / _ROOT

    def publish(self, draft: Path, *, key: str, facts: Facts) -> None:
        """Make the finished folder `draft` the base of this key."""
        manifest = {"format": BASE_FORMAT, "key": key, "facts": dict(facts), "made": random_hex(8)}
        write_json(draft / _MANIFEST, manifest, durable=False)
        remove_tree(self._root / key)
        draft.rename(self._root / key)

    def find(self, key: str) -> bool:
        """Return whether the base exists."""
        if not (self._root / key / _MANIFEST).exists():
            return False
        if not self.root_of(key).is_dir() or self.facts_of(key) == {}:
            raise DamagedBase(f"Base {key} is not whole.")
        return True

    def content_digest(self, key: str) -> str:
        """Return a digest of the manifest, which differs each time that a base is made."""
        if not self.root_of(key).is_dir():
            raise DamagedBase(f"There is no base {key}.")
        try:
            return hashlib.sha256((self._root / key / _MANIFEST).read_bytes()).hexdigest()
        except FileNotFoundError as error:
            raise DamagedBase(f"There is no base {key}.") from error

    def facts_of(self, key: str) -> dict[str, str | int]:
        """Return the facts that a base was made from."""
        try:
            return dict(json.loads((self._root / key / _MANIFEST).read_text())["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}


class FolderBaseMaker:
    """Makes bases in some milliseconds. Implements `wrenn.agent.bases.BaseMaker`."""

    def __init__(self, images: ImageFolder, templates: Sequence[str] = ("minimal",)) -> None:
        self._images = images
        self._templates = templates

    def templates(self) -> list[str]:
        """Return the configured names; all templates are alike."""
        return sorted(self._templates)

    def facts(self, template: str, shape: Shape) -> Facts:
        """Return template, image and shape."""
        shape_facts = {"template": template, "vcpus": shape.vcpus, "memory_mb": shape.memory_mb}
        if (image_id := image_id_of(template)) is not None:
            return {**shape_facts, "image": self._images.find(image_id).facts.content}
        if template not in self._templates:
            raise NotFound(f"There is no template {template!r}.")
        return shape_facts

    def metadata(self, template: str) -> Mapping[str, str]:
        """Return versions that say that there is no kernel."""
        del template
        return {"kernel_version": "none", "envd_version": "simulated"}

    async def make(self, undo: Undo, draft: Path, key: str, template: str, shape: Shape) -> None:
        """Unpack the image, or make an almost empty folder."""
        del undo, key, shape
        if (image_id := image_id_of(template)) is not None:
            await unpack_tree(self._images.find(image_id).rootfs, draft / _ROOT)
        else:
            await make_root(draft / _ROOT)
