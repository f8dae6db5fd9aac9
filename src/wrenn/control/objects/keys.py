"""The keys with which objects are encrypted before they come into the store.

The file that `WRENN_STORE_KEY` names has one key a line, 64 hexadecimal digits each; the first one is for new objects, the others are for what was
written with them. Keys of owners are derived from them, so a host has the keys of those owners alone whose images it may read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from wrenn.base.errors import InvalidRequest, StoreUnavailable
from wrenn.base.secrets import Secret
from wrenn.base.units import KIB
from wrenn.protocol.sealed_objects import CannotOpen, ObjectKey, key_id_of

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 16
_FILE_LIMIT_B: Final = 64 * KIB


class StoreKeyMissing(StoreUnavailable):
    """What is needed was encrypted with a key that the control plane does not have."""


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """The keys of the store by their ids. `current`: that for new objects; None: they are not encrypted."""

    current: str | None = None
    _keys: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    @classmethod
    def from_file(cls, path: str) -> Self:
        """Read the file that `WRENN_STORE_KEY` names; an empty path: nothing is encrypted.

        Raises:
            InvalidRequest: it cannot be read, or is not a file of keys. Nothing of its content is in the message.
        """
        if not path:
            return cls()
        try:
            with Path(path).open("rb") as file:
                lines = file.read(_FILE_LIMIT_B).decode("ascii").splitlines()
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"WRENN_STORE_KEY: the file {path} cannot be read.") from error
        keys: dict[str, bytes] = {}
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip().lower()
            if not text:
                continue
            if not _KEY.fullmatch(text):
                raise InvalidRequest(
                    f"WRENN_STORE_KEY: line {number} of {path} is not a key of 64 hexadecimal digits."
                )
            key = bytes.fromhex(text)
            keys[hashlib.sha256(b"wrenn store key id\n" + key).hexdigest()[:16]] = key
        if not 1 <= len(keys) <= _MOST:
            raise InvalidRequest(f"WRENN_STORE_KEY: {path} must have between 1 and {_MOST} keys.")
        return cls(next(iter(keys)), keys)

    def of(self, owner: str, key_id: str | None) -> ObjectKey | None:
        """Return the key of an owner's objects; None: they are not encrypted.

        Raises:
            StoreKeyMissing: the control plane does not have it.
        """
        if key_id is None:
            return None
        return ObjectKey(key_id, Secret(self._derive(key_id, "objects", owner).hex()))

    def all_of(self, owner: str) -> tuple[ObjectKey, ...]:
        """Return all keys that objects of an owner may be encrypted with."""
        keys = (self.of(owner, key_id) for key_id in self._keys)
        return tuple(key for key in keys if key is not None)

    def chunk_name(self, owner: str, key_id: str | None, digest: str) -> str:
        """Return the name of a chunk in the store, which does not tell what is in it if it is encrypted. Raises as `of`."""
        if key_id is None:
            return digest
        return hmac.digest(self._derive(key_id, "names", owner), bytes.fromhex(digest), "sha256").hex()

    def seal(self, object_key: str, content: bytes, key_id: str | None) -> bytes:
        """Return an object as it is stored. Raises as `of`."""
        owner, name = _owner_and_name(object_key)
        key = self.of(owner, key_id)
        return content if key is None else key.seal(content, name)

    def open(self, object_key: str, data: bytes) -> bytes:
        """Return the content of an object, which need not be sealed.

        Raises:
            StoreKeyMissing. StoreUnavailable: it was altered, or is another one.
        """
        key_id = key_id_of(data)
        if key_id is None:
            return data
        owner, name = _owner_and_name(object_key)
        key = self.of(owner, key_id)
        assert key is not None, "the object has an id"
        try:
            return key.open(data, name)
        except CannotOpen as error:
            raise StoreUnavailable(error.message) from error

    def _derive(self, key_id: str, purpose: str, owner: str) -> bytes:
        key = self._keys.get(key_id)
        if key is None:
            raise StoreKeyMissing(
                f"It is encrypted with the key {key_id}, which is not in the file of WRENN_STORE_KEY."
            )
        return hmac.digest(key, f"wrenn store {purpose}\n{owner}".encode(), "sha256")


def _owner_and_name(object_key: str) -> tuple[str, str]:
    """Return the owner of an object and the name that it is bound to."""
    return object_key.partition("/")[0], name_of(object_key)


def name_of(object_key: str) -> str:
    """Return the name that a sealed object is bound to: the last part of its key, without an ending."""
    return object_key.rpartition("/")[2].partition(".")[0]
