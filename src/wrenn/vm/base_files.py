"""The files of a base: a snapshot of a booted template in one shape, from which every sandbox is restored.

A base is a folder, named by its key, with `memory` (sparse, the guest's RAM), `state` (device state), the files of its VMM for
what the boot wrote to the disk, `rootfs.ext4` (the template's image, a hard link where that can be: a template that is made anew
must not take it away) and `manifest.json`, which is written last: no manifest, no base. It is never changed after that. What it
depends on is in its key, so that a new kernel, guest agent, VMM or image means another base and never a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from wrenn.base.on_failure import on_failure
from wrenn.linux.files import fsync_path, read_data, remove_tree, write_json
from wrenn.linux.memfd import sealed_copy
from wrenn.linux.threads import run_to_end
from wrenn.storage.errors import DamagedBase
from wrenn.vm.bases import BASE_FORMAT, Facts
from wrenn.vm.page_digest import PageDigest

_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Base:
    """Paths of the files of one base. A VMM has its own subclass."""

    key: str
    directory: Path
    DISK_FILES: ClassVar[tuple[str, ...]] = ()
    """Names of the VMM's files for the disk."""
    SPARSE_FILES: ClassVar[tuple[str, ...]] = ("memory",)
    """Those of all files that are far larger than their data: their digest does not depend on holes."""
    MEMORY_MODE: ClassVar[int] = 0o400

    @property
    def memory(self) -> Path:
        """The guest's RAM."""
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        """The device state."""
        return self.directory / "state"

    @property
    def image(self) -> Path:
        """The template's image under it."""
        return self.directory / "rootfs.ext4"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files whose digests the manifest has, besides the image's size."""
        return (self.memory, self.state, *(self.directory / name for name in self.DISK_FILES))


B = TypeVar("B", bound=Base)


def publish(kind: type[B], draft: Path, root: Path, *, key: str, facts: Facts) -> B:
    """Atomically and durably make the finished folder `draft` the base `key` below `root`.

    One that was there under this key is replaced; snapshots on it then see that by its `content_digest`.

    Raises:
        StorageFull: no room; the draft is still there.
    """
    base = kind(key, draft)
    for path in base.files:
        os.chown(path, os.geteuid(), os.getegid())  # not the VMM's any more
        path.chmod(base.MEMORY_MODE if path == base.memory else 0o400)
        fsync_path(path)
    fsync_path(base.image)  # it may be a copy
    manifest = {
        "format": BASE_FORMAT,
        "key": key,
        "facts": dict(facts),
        "files": {p.name: _digest_of(p, sparse=p.name in base.SPARSE_FILES) for p in base.files}
        | {base.image.name: _size_of(base.image)},
    }
    write_json(draft / _MANIFEST, manifest, durable=True)
    final = root / key
    remove_tree(final)
    draft.rename(final)
    fsync_path(root)
    return kind(key, final)


def find(kind: type[B], root: Path, key: str) -> B | None:
    """Return the base `key`, or None. Small files are checked here, memory when it is loaded.

    Raises:
        DamagedBase: it is there and not as it was made.
    """
    base = kind(key, root / key)
    try:
        files = _digests(base)
    except FileNotFoundError:
        return None
    for path in (*base.files, base.image):
        _check_size(base, path, files)
        if (
            path not in (base.memory, base.image)
            and _digest_of(path, sparse=path.name in base.SPARSE_FILES) != files[path.name]
        ):
            raise DamagedBase(f"{path.name} of base {key} has other content than when it was made.")
    return base


def content_digest(base: Base) -> str:
    """Return a digest of the base's content. Files that VMs read without a digest must have their original sizes.

    Raises:
        DamagedBase: it is missing, or not as it was made.
    """
    try:
        files = _digests(base)
    except FileNotFoundError as error:
        raise DamagedBase(f"There is no base {base.key}.") from error
    for path in (*(base.directory / name for name in base.DISK_FILES), base.image):
        _check_size(base, path, files)
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def facts_of(directory: Path) -> dict[str, str | int]:
    """Return the facts that a base was made from; empty if it is missing or damaged."""
    try:
        return dict(json.loads((directory / _MANIFEST).read_text())["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def load_memory(base: Base) -> int:
    """Return a sealed memfd with the base's memory; the caller owns it.

    Raises:
        DamagedBase: the content is not what was saved.
    """
    digest = PageDigest()
    try:
        expected = _digests(base).get(base.memory.name, {}).get("pages_sha256")
        memory = sealed_copy(base.memory, name=f"wrenn-base-{base.key}", on_data=digest.update)
    except FileNotFoundError as error:
        raise DamagedBase(f"A file of base {base.key} is missing.") from error
    if digest.hexdigest() != expected:
        os.close(memory)
        raise DamagedBase(f"The memory of base {base.key} has other content than when it was made.")
    return memory


def open_memory(base: Base) -> int:
    """Return a descriptor of the base's memory, which was compared with its digest; the caller closes it.

    Raises:
        DamagedBase: the content is not what was saved.
    """
    try:
        expected = _digests(base).get(base.memory.name, {}).get("pages_sha256")
        memory = os.open(base.memory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DamagedBase(f"A file of base {base.key} is missing.") from error
    with on_failure(partial(os.close, memory)):
        if _page_digest(memory) != expected:
            raise DamagedBase(f"The memory of base {base.key} has other content than when it was made.")
    return memory


def _digests(base: Base) -> dict[str, dict[str, Any]]:
    """Return sizes and digests of the base's files by name. Raises FileNotFoundError without a manifest, DamagedBase."""
    try:
        manifest = json.loads((base.directory / _MANIFEST).read_text())
        if manifest["format"] != BASE_FORMAT or manifest["key"] != base.key:
            raise DamagedBase(f"The manifest of base {base.key} belongs to another base or version.")
        return {str(name): dict(entry) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBase(f"The manifest of base {base.key} cannot be read.") from error


def _check_size(base: Base, path: Path, files: dict[str, dict[str, Any]]) -> None:
    try:
        same = path.stat().st_size == files[path.name].get("size_b")
    except (FileNotFoundError, KeyError):
        same = False
    if not same:
        raise DamagedBase(f"{path.name} of base {base.key} is missing or has another size.")


def _digest_of(path: Path, *, sparse: bool) -> dict[str, str | int]:
    size_b = path.stat().st_size
    if sparse:
        with path.open("rb") as file:
            return {"size_b": size_b, "pages_sha256": _page_digest(file.fileno())}
    return {"size_b": size_b, "sha256": _sha256(path)}


def _page_digest(fd: int) -> str:
    digest = PageDigest()
    for offset, data in read_data(fd):
        digest.update(offset, data)
    return digest.hexdigest()


def _size_of(path: Path) -> dict[str, str | int]:
    return {"size_b": path.stat().st_size}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StoredBases(Generic[B]):
    """The bases of a host as files for one kind of VMM. Implements `wrenn.vm.bases.BaseStore`."""

    def __init__(self, kind: type[B], root: Path) -> None:
        self._kind = kind
        self._root = root

    def of(self, key: str) -> B:
        """Return the paths of a base, whether or not it exists."""
        return self._kind(key, self._root / key)

    def publish(self, draft: Path, *, key: str, facts: Facts) -> None:
        """Make the finished folder `draft` the base of this key."""
        publish(self._kind, draft, self._root, key=key, facts=facts)

    def find(self, key: str) -> bool:
        """Return whether the base exists."""
        return find(self._kind, self._root, key) is not None

    def content_digest(self, key: str) -> str:
        """Return a digest of the base's content."""
        return content_digest(self.of(key))

    def facts_of(self, key: str) -> dict[str, str | int]:
        """Return the facts that a base was made from."""
        return facts_of(self._root / key)

    async def export(self, key: str, scratch: Path) -> dict[str, Path]:
        """Return the base's own files."""
        del scratch
        base = self.of(key)
        files = {path.name: path for path in (*base.files, base.image)}
        if missing := [name for name, path in files.items() if not path.exists()]:
            raise DamagedBase(f"{missing[0]} of base {key} is missing.")
        return files

    async def restore(self, files: Path, *, key: str, facts: Facts) -> None:
        """Make the folder the base of this key; the digests in its manifest are computed from the files."""
        try:
            await run_to_end(partial(publish, self._kind, files, self._root, key=key, facts=facts))
        except FileNotFoundError as error:
            raise DamagedBase("A file of the base is missing.") from error
