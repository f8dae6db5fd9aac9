"""Interface to the stored bases of a host, from which VMs of one template and shape are restored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

BASE_FORMAT: Final = 2
"""Version of all stored bases; those of another one are made again."""
_KEY_LENGTH: Final = 24

Facts = Mapping[str, str | int]
"""What a base is made of: kernel, agent, VMM, image, shape, and so on."""


def base_key(facts: Facts) -> str:
    """Return the base's name, a digest of its facts: a new kernel, guest agent, VMM or image gives another name."""
    text = json.dumps({"format": BASE_FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


class BaseStore(Protocol):
    """The stored bases of a host, each a folder named by its key. A published base never changes. All methods block."""

    def publish(self, draft: Path, *, key: str, facts: Facts) -> None:
        """Atomically and durably make the finished folder `draft` the base `key`, replacing an existing one.

        Raises:
            StorageFull: no room; the draft is still there.
        """
        ...

    def find(self, key: str) -> bool:
        """Return whether the base exists. Small files are checked here, memory when it is loaded.

        Raises:
            DamagedBase: it is there and not as it was made.
        """
        ...

    def content_digest(self, key: str) -> str:
        """Return a digest of the base's content; a base that was made again under the same key has another one.

        Raises:
            DamagedBase: it is missing, or not as it was made.
        """
        ...

    def facts_of(self, key: str) -> dict[str, str | int]:
        """Return the facts that a base was made from; empty if it is missing or damaged."""
        ...

    async def export(self, key: str, scratch: Path) -> dict[str, Path]:
        """Return files, by name, from which `restore` makes the same base on another host. They may be made in `scratch`.

        Raises:
            DamagedBase: it is missing.
        """
        ...

    async def restore(self, files: Path, *, key: str, facts: Facts) -> None:
        """Make the base `key` from the folder with the files that `export` returned elsewhere; the folder is used up.

        Its content digest is that of the exported one, if the files are.

        Raises:
            DamagedBase: a file is missing. StorageFull: no room.
        """
        ...
