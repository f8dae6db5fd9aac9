"""Container images that were pulled and packed on this host, so that the same image is not pulled again.

`pulled/<key>/{rootfs.ext4,facts.json}` of the data folder. The file is a hard link to that of the image that was made first. A key says of what content an
image was made, how, and for whom: what one team pulled is never given to another one, which could otherwise find out that it is there.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import random_hex
from wrenn.linux.files import fsync_path, write_json
from wrenn.storage.images import ROOTFS, ContainerConfig, ImageFacts

_log = logging.getLogger(__name__)

_FACTS: Final = "facts.json"
_DRAFT_PREFIX: Final = ".draft-"
_BLOCK_B: Final = 512
_VERSION: Final = version("wrenn")


def key_of(scope: str, digest: str, disk_size_mb: int) -> str:
    """Return the key of an image that is made from the container image with this digest. `scope`: for whom."""
    return sha256(json.dumps([_VERSION, scope, digest, disk_size_mb]).encode()).hexdigest()


class PulledImages:
    """The pulled images of this host: those that were used last, up to `limit_b`; 0: none. All methods block."""

    def __init__(self, root: Path, *, limit_b: int) -> None:
        self._root = root
        self._limit_b = limit_b
        self._lock = Lock()

    def take(self, key: str, draft: Path) -> ImageFacts | None:
        """Link the file of a pulled image into the draft; return what is known of it. None: it is not there."""
        folder = self._root / key
        with self._lock:
            try:
                facts = _read_facts(folder / _FACTS)
                os.link(folder / ROOTFS, draft / ROOTFS)
                os.utime(folder)
            except (OSError, ValueError, KeyError, TypeError, InvalidRequest):
                return None
        return facts

    def keep(self, key: str, draft: Path, facts: ImageFacts) -> None:
        """Keep the image in this draft, which is complete, and remove those that were not used for longest. A failure is logged."""
        if not self._limit_b:
            return
        try:
            with self._lock:
                self._keep(key, draft / ROOTFS, facts)
                self._remove_beyond_limit()
        except OSError as error:
            _log.warning("pulled image not kept", extra={"cause": str(error)})

    def _keep(self, key: str, rootfs: Path, facts: ImageFacts) -> None:
        self._root.mkdir(mode=0o700, exist_ok=True)
        # Left by a killed agent: whoever writes one has the lock.
        for left in self._root.glob(f"{_DRAFT_PREFIX}*"):
            shutil.rmtree(left)
        # Nobody but root may write it from now on: neither the programs of this import nor those of others.
        os.chown(rootfs, os.geteuid(), os.getegid())
        rootfs.chmod(0o400)
        fsync_path(rootfs)
        folder = self._root / f"{_DRAFT_PREFIX}{random_hex(8)}"
        folder.mkdir(mode=0o700)
        os.link(rootfs, folder / ROOTFS)
        config = facts.config.to_json() if facts.config is not None else None
        write_json(folder / _FACTS, {"reference": facts.reference, "config": config}, durable=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._root / key)
        folder.rename(self._root / key)

    def _remove_beyond_limit(self) -> None:
        newest_first = sorted(self._entries(), key=lambda entry: entry[1], reverse=True)
        taken_b = 0
        for folder, _, allocated_b in newest_first:
            taken_b += allocated_b
            if taken_b > self._limit_b:
                shutil.rmtree(folder)

    def _entries(self) -> Sequence[tuple[Path, float, int]]:
        """Return each folder, when it was used last, and the bytes that its file takes."""
        found: list[tuple[Path, float, int]] = []
        for folder in self._root.iterdir():
            with suppress(FileNotFoundError):
                size_b = (folder / ROOTFS).stat().st_blocks * _BLOCK_B
                found.append((folder, folder.stat().st_mtime, size_b))
        return found


def _read_facts(path: Path) -> ImageFacts:
    content = json.loads(path.read_bytes())
    config = None if content["config"] is None else ContainerConfig.of_json(content["config"])
    return ImageFacts.new(reference=str(content["reference"]), config=config)
