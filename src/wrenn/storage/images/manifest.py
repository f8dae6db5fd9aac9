"""Manifests of built images. The manifest is written last: a folder without one does not count as an image.

Everything is built in a scratch folder beside its place, flushed to the disk, and renamed into place whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

from wrenn.base.errors import Forbidden, InvalidState, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.units import MIB
from wrenn.linux.command import run
from wrenn.linux.files import fsync_path, write_json

FORMAT: Final = 1
"""Version of all manifests here; another one is rebuilt."""

SCRATCH_PREFIX: Final = ".building-"
HOW_TO_BUILD: Final = "run: sudo wrenn images build"

Manifest: TypeAlias = dict[str, object]

_CHUNK_B: Final = 1 * MIB
_REMOVE_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size and digest of a file, as in a manifest."""

    size_b: int
    digest: str

    def to_json(self) -> dict[str, object]:
        """Return the manifest's form."""
        return {"size_b": self.size_b, "digest": self.digest}

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Read the file and compute its facts.

        The digest is the SHA-256 of the content; a hole in a sparse file is left out together with any chunk of
        zeros, and each chunk is preceded by its offset, so that 5 GiB of nothing cost nothing.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            size_b = os.fstat(file.fileno()).st_size
            digest.update(size_b.to_bytes(8, "big"))
            offset = 0
            while offset < size_b:
                offset = _next_data(file.fileno(), offset, size_b) // _CHUNK_B * _CHUNK_B
                chunk = os.pread(file.fileno(), _CHUNK_B, offset)
                if chunk.count(0) != len(chunk):
                    digest.update(offset.to_bytes(8, "big") + chunk)
                offset += _CHUNK_B
        return cls(size_b, digest.hexdigest())


def _next_data(fd: int, offset: int, end: int) -> int:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:  # ENXIO: only a hole is left; anything else shows at the read that follows
        return max(offset, (end - 1) // _CHUNK_B * _CHUNK_B)


def checked_template_name(name: str) -> str:
    """Return `name` after checking that it is safe as a folder's name.

    Raises:
        NotFound: no template can have such a name.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) is None:
        raise NotFound(f"There is no template {name!r}.")
    return name


def read_manifest(path: Path, *, what: str) -> Manifest:
    """Read a manifest.

    Raises:
        NotFound: there is none.
        Forbidden: this is not root.
        InvalidState: it is damaged or of another version.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"The {what} is not built; {HOW_TO_BUILD}", context={"path": str(path)}) from error
    except PermissionError as error:
        raise Forbidden(
            f"The {what} can be read by root only; run this with sudo.", context={"path": str(path)}
        ) from error
    except ValueError as error:
        raise InvalidState(f"The manifest of the {what} is damaged; {HOW_TO_BUILD}") from error
    if not isinstance(content, dict) or cast(Manifest, content).get("format") != FORMAT:
        raise InvalidState(f"The {what} was built by another version; {HOW_TO_BUILD}")
    return cast(Manifest, content)


def text(manifest: Manifest, key: str, *, what: str) -> str:
    """Return the text field `key`.

    Raises:
        InvalidState: there is no such field.
    """
    value = manifest.get(key)
    if not isinstance(value, str):
        raise InvalidState(f"The manifest of the {what} has no {key}; {HOW_TO_BUILD}")
    return value


def checked_file(path: Path, facts: object, *, what: str) -> FileFacts:
    """Return the facts of `path` from its manifest after checking the file's size.

    Raises:
        InvalidState: the file is missing or has another size.
    """
    match facts:
        case {"size_b": int(size_b), "digest": str(digest)} if (
            path.is_file() and path.stat().st_size == size_b
        ):
            return FileFacts(size_b, digest)
        case _:
            raise InvalidState(
                f"The {what} is damaged ({path.name}); {HOW_TO_BUILD}", context={"path": str(path)}
            )


async def publish(scratch: Path, place: Path, manifest: Manifest) -> None:
    """Atomically move a finished scratch folder to `place`.

    A death at any moment leaves the old one, the new one, or none; never a mixture.
    """
    for path in sorted(scratch.rglob("*")):
        fsync_path(path)
    await fault_point("images.publish.before_manifest")
    write_json(scratch / "manifest.json", manifest, durable=True)
    await fault_point("images.publish.before_rename")
    if place.exists():
        # Two renames are not one step, but what lies between them is a folder that is not there: it is built again.
        place.rename(scratch.with_name("replaced"))
    await fault_point("images.publish.between_renames")
    scratch.rename(place)
    fsync_path(place.parent)


async def sweep(folder: Path) -> None:
    """Create `folder` if it is missing, and remove what a killed build left in it. Requires the build lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for scratch in folder.glob(f"{SCRATCH_PREFIX}*"):
        # A build that was killed may have left a mount below: never follow one.
        await run(["rm", "-rf", "--one-file-system", "--", str(scratch)], timeout_s=_REMOVE_TIMEOUT_S)
