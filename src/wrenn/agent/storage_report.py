"""`wrenn storage`: reports disk use; files shared by several users are counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import Record, journal
from wrenn.agent.settings import Settings
from wrenn.base.errors import NotFound, WrennError
from wrenn.network import find_block
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.images import ImageFolder
from wrenn.storage.layers import layer_files
from wrenn.vm.qemu import QemuBases

_IMAGE: Final = "rootfs.ext4"


@dataclass(frozen=True, slots=True)
class Usage:
    """The disk use of one sandbox, snapshot, base or image.

    Attributes:
        kind: `sandbox`, `snapshot` (one that is kept: a template), `base`, or `image` (made by a build or import).
        own_b: bytes that would be freed with it.
        shared_b: bytes that it needs and others too.
    """

    kind: str
    name: str
    detail: str
    own_b: int
    shared_b: int


@dataclass(frozen=True, slots=True)
class StorageReport:
    """Disk use by user, by template, and in total.

    Attributes:
        templates: of each template its image, bases and snapshot together. Its sandboxes have use of their own.
    """

    usages: list[Usage]
    total_b: int
    templates: list[Usage] = field(default_factory=list[Usage])


def measure_storage(settings: Settings) -> StorageReport:
    """Measure the data folder. Read-only; works without a running agent.

    Raises:
        NotFound: no agent ran on this folder since the machine's boot.
    """
    block = find_block(settings.data_dir)
    if block is None:
        raise NotFound(f"There are no sandboxes in {settings.data_dir}.")
    layout = Layout(settings.data_dir, block)
    needs: dict[tuple[str, str, str], set[Path]] = {}
    for folder in (layout.bases, layout.snapshots, layout.sandboxes):
        if not folder.is_dir():
            raise NotFound(f"No agent of this version ran on {settings.data_dir}: start one with `wrenn up`.")
    for directory in sorted(layout.bases.iterdir()):
        if not directory.name.startswith("."):
            needs["base", directory.name, ""] = {directory}
    images = ImageFolder(layout.images)
    for image_id in images.ids():
        with suppress(WrennError):
            image = images.find(image_id)
            needs["image", str(image_id), image.facts.reference] = {image.rootfs}
    for snapshot in snapshots.pinned_snapshots(layout.snapshots):
        name = snapshot.manifest.snapshot_id
        needs["snapshot", name, f"of {snapshot.manifest.sandbox_id}"] = _needs_of(layout, name)
    for directory in sorted(layout.sandboxes.iterdir()):
        with suppress(WrennError):
            if (record := journal.load(directory)) is not None:
                needs["sandbox", directory.name, record.state.value] = _of_sandbox(layout, record, directory)
    files = {user: _files(paths) for user, paths in needs.items()}
    every = {inode: size for sizes in files.values() for inode, size in sizes.items()}
    return StorageReport(_usages(files), sum(every.values()), _usages(_of_templates(layout, files)))


def _usages(files: Mapping[tuple[str, str, str], Mapping[int, int]]) -> list[Usage]:
    users = Counter(inode for sizes in files.values() for inode in sizes)
    return [
        Usage(
            kind,
            name,
            detail,
            own_b=sum(size for inode, size in sizes.items() if users[inode] == 1),
            shared_b=sum(size for inode, size in sizes.items() if users[inode] > 1),
        )
        for (kind, name, detail), sizes in files.items()
    ]


def _of_templates(
    layout: Layout, files: Mapping[tuple[str, str, str], Mapping[int, int]]
) -> dict[tuple[str, str, str], dict[int, int]]:
    """Return the files of images, bases and snapshots by template."""
    bases = QemuBases(layout.bases)
    references = {name: detail for kind, name, detail in files if kind == "image"}
    found: dict[str, dict[int, int]] = {}
    for (kind, name, _), sizes in files.items():
        template = str(bases.facts_of(name).get("template", "")) if kind == "base" else name
        if kind != "sandbox" and template:
            found.setdefault(template, {}).update(sizes)
    return {("template", name, references.get(name, "")): sizes for name, sizes in found.items()}


def _of_sandbox(layout: Layout, record: Record, directory: Path) -> set[Path]:
    paths = {directory, layout.bases / record.base}
    paths |= _files_of_layers(layout, record.layers)
    for name in (record.parent, record.snapshot, record.former_snapshot):
        paths |= _needs_of(layout, name)
    return paths


def _files_of_layers(layout: Layout, layers: Iterable[str]) -> set[Path]:
    files = layer_files(layout.layers)
    return {files[layer] for layer in layers if layer in files}


def _needs_of(layout: Layout, name: str) -> set[Path]:
    """Return a snapshot's folder and everything that it depends on."""
    paths: set[Path] = set()
    while name:
        try:
            manifest = snapshots.find(layout.snapshots, name).manifest
        except (NotFound, DamagedSnapshot):
            break
        paths |= {layout.snapshots / name, layout.bases / manifest.base}
        paths |= _files_of_layers(layout, manifest.layer_ids)
        name = manifest.parent
    return paths


def _files(paths: Iterable[Path]) -> dict[int, int]:
    """Return allocated bytes by inode, so that hard links count once. Of a folder, a base, the image is not included: it is another's."""
    sizes: dict[int, int] = {}
    for path in paths:
        for file in path.iterdir() if path.is_dir() else (path,):
            with suppress(FileNotFoundError):
                stat = file.stat()
                if file == path or file.name != _IMAGE:
                    sizes[stat.st_ino] = stat.st_blocks * 512
    return sizes
