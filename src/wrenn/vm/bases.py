"""The stored bases of a host: what machines of one template and shape are restored from."""

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
    """The name of the base that these facts determine: a new kernel, guest agent, VMM or image is another base."""
    text = json.dumps({"format": BASE_FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


class BaseStore(Protocol):
    """Bases, each a folder named by its key. A base is never changed after it was published. All methods block."""

    def publish(self, draft: Path, *, key: str, facts: Facts) -> None:
        """Make the finished folder `draft` the base of this key, durably and at once; one that was there is replaced.

        Raises:
            StorageFull: no room; the draft is still there.
        """
        ...

    def find(self, key: str) -> bool:
        """Whether there is such a base. Small files are checked; memory is checked when it is loaded.

        Raises:
            DamagedBase: it is there and not as it was made.
        """
        ...

    def content_digest(self, key: str) -> str:
        """What the base holds, in short: one that was made again under the same key has another digest.

        Raises:
            DamagedBase: it is missing, or not as it was made.
        """
        ...

    def facts_of(self, key: str) -> dict[str, str | int]:
        """What a base was made of; empty when it is no whole base."""
        ...
