"""The files of a paused sandbox as one sequence of chunks, for the store (docs/design/moves.md).

The first chunk is the table: JSON that says what the others are. Each file begins with a chunk of its own and is padded with zeros to a whole one. The table is input of
another host: it is bounded, and no name in it leads out of a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from wrenn.base.errors import InvalidRequest, InvalidState, TooLarge
from wrenn.base.ids import SnapshotId
from wrenn.base.secrets import Secret
from wrenn.protocol.image_manifest import CHUNK_B, IMAGE_LIMIT_B
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.objects.chunks import SparseReader, SparseWriter
from wrenn.storage.snapshots import Manifest, manifest_fields, manifest_of

FORMAT: Final = 1
BASE: Final = "base"
LAYERS: Final = "layers"
SNAPSHOTS: Final = "snapshots"
"""Folders in the names of files."""
_FILE_LIMIT: Final = 256
_CHAIN_LIMIT: Final = 8
"""Snapshots that a memory image may lie on; drivers make fewer."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KEY: Final = re.compile(r"[0-9a-f]{8,64}")
_LAYER: Final = re.compile(r"layer-[0-9a-f]{8,32}")
_TOKEN: Final = re.compile(r"[0-9a-f]{64}")
_TEXT_LIMIT: Final = 512
_VERSIONS: Final = 64


@dataclass(frozen=True, slots=True)
class StoredBase:
    """The base that a saved state lies on.

    Attributes:
        key: on the host that stored it.
        facts: what it was made of.
        digest: of its content.
    """

    key: str
    facts: Mapping[str, str | int]
    digest: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a saved state: `base/…`, `snapshots/<id>/…` or `layers/<id>`."""

    name: str
    size_b: int

    @property
    def chunk_count(self) -> int:
        """The number of its chunks."""
        return -(-self.size_b // CHUNK_B)


@dataclass(frozen=True, slots=True)
class StateTable:
    """The content of a saved state.

    Attributes:
        token: the access token that the guest expects.
        held: whether the guest's processes were frozen at the pause.
        disk_mb: size of its disk, where it was made larger than its template's image; else 0.
        origin_layers: those of its layers that were its template's.
        versions: that it ran with, for people.
        snapshots: its snapshot, then those that its memory lies on.
    """

    token: Secret
    held: bool
    disk_mb: int
    origin_layers: tuple[str, ...]
    versions: Mapping[str, str]
    snapshots: Sequence[Manifest]
    base: StoredBase
    files: Sequence[StoredFile]

    @property
    def snapshot(self) -> Manifest:
        """The sandbox's own snapshot."""
        return self.snapshots[0]

    def encode(self) -> bytes:
        """Return the first chunk. Raises TooLarge."""
        content = {
            "format": FORMAT,
            "sandbox": {
                "held": self.held,
                "disk_mb": self.disk_mb,
                "origin_layers": list(self.origin_layers),
                "versions": dict(self.versions),
            },
            "token": self.token.reveal(),
            "snapshots": [manifest_fields(manifest) for manifest in self.snapshots],
            "base": {"key": self.base.key, "facts": dict(self.base.facts), "digest": self.base.digest},
            "files": [[file.name, file.size_b] for file in self.files],
        }
        data = json.dumps(content, separators=(",", ":")).encode()
        if len(data) > CHUNK_B or len(self.files) > _FILE_LIMIT or len(self.snapshots) > _CHAIN_LIMIT:
            raise TooLarge("The sandbox consists of too many files to be stored.")
        return data.ljust(CHUNK_B)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the first chunk.

        Raises:
            InvalidState: of a format that this version does not know. DamagedSnapshot: not a table.
        """
        try:
            content = cast("dict[str, Any]", json.loads(data))
            if content["format"] != FORMAT:
                raise InvalidState(
                    "The sandbox was stored in a format that this version of wrenn does not know."
                )
            sandbox, base = content["sandbox"], content["base"]
            table = cls(
                token=Secret(_matching(_TOKEN, content["token"])),
                held=sandbox["held"] is True,
                disk_mb=_whole(sandbox["disk_mb"]),
                origin_layers=tuple(_matching(_LAYER, layer) for layer in sandbox["origin_layers"]),
                versions=_texts(sandbox["versions"]),
                snapshots=tuple(manifest_of(dict(fields)) for fields in content["snapshots"]),
                base=StoredBase(
                    _matching(_KEY, base["key"]), _facts(base["facts"]), _matching(_KEY, base["digest"])
                ),
                files=tuple(StoredFile(str(name), _whole(size_b)) for name, size_b in content["files"]),
            )
            table._check()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidRequest) as error:
            raise DamagedSnapshot("What the store has of the sandbox cannot be read.") from error
        return table

    def _check(self) -> None:
        """Raise ValueError if it does not name exactly the files that its snapshots need, or a name could lead elsewhere."""
        if not 1 <= len(self.snapshots) <= _CHAIN_LIMIT or not 1 <= len(self.files) <= _FILE_LIMIT:
            raise ValueError("counts")
        if self.size_b > IMAGE_LIMIT_B:
            raise ValueError("size")
        layers: set[str] = set()
        for manifest, parent in zip(
            self.snapshots, (*(m.snapshot_id for m in self.snapshots[1:]), ""), strict=True
        ):
            SnapshotId.parse(manifest.snapshot_id)
            if manifest.parent != parent or manifest.base != self.base.key:
                raise ValueError("chain")
            if manifest.base_digest != self.base.digest:
                raise ValueError("base")
            layers |= {_matching(_LAYER, layer) for layer in manifest.layer_ids}
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError("names")
        own = {f"{SNAPSHOTS}/{manifest.snapshot_id}" for manifest in self.snapshots}
        for name in names:
            folder, _, last = name.rpartition("/")
            is_layer = folder == LAYERS and last in layers
            if not is_layer and (folder not in {BASE, *own} or _NAME.fullmatch(last) is None):
                raise ValueError("name")
        if {f"{LAYERS}/{layer}" for layer in layers} - set(names):
            raise ValueError("layers")

    @property
    def size_b(self) -> int:
        """The size of all chunks."""
        return CHUNK_B * (1 + sum(file.chunk_count for file in self.files))

    def indexes(self, names: Collection[str]) -> list[int]:
        """Return the indexes of the chunks of these files."""
        found: list[int] = []
        first = 1
        for file in self.files:
            if file.name in names:
                found += range(first, first + file.chunk_count)
            first += file.chunk_count
        return found


class StateReader:
    """Reads the files of a saved state in chunks. Use it as a context. The files must not change."""

    def __init__(self, table: StateTable, paths: Mapping[str, Path]) -> None:
        self._table = table.encode()
        self._stack = ExitStack()
        self.size_b = table.size_b
        # Of each chunk after the first: which file it is of, and its number there.
        self._parts: list[tuple[SparseReader, int]] = []
        self._readers: list[tuple[int, SparseReader]] = []
        with self._stack:
            for file in table.files:
                reader = self._stack.enter_context(SparseReader(paths[file.name]))
                if reader.size_b != file.size_b:
                    raise DamagedSnapshot("A file of the sandbox was altered while it was stored.")
                self._readers.append((1 + len(self._parts), reader))
                self._parts += [(reader, number) for number in range(reader.chunk_count)]
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def chunk_count(self) -> int:
        """The number of chunks."""
        return 1 + len(self._parts)

    def data_chunks(self) -> Iterator[int]:
        """Yield the indexes of the chunks that are not holes, in order."""
        yield 0
        for first, reader in self._readers:
            for number in reader.data_chunks():
                yield first + number

    def read(self, index: int) -> bytes:
        """Return a whole chunk; empty: it is all zeros. May be called from several threads at once."""
        if index == 0:
            return self._table
        reader, number = self._parts[index - 1]
        data = reader.read(number)
        return data.ljust(CHUNK_B, b"\0") if data else b""


class StateWriter:
    """Writes files of a saved state from its chunks into a folder. Use it as a context."""

    def __init__(self, table: StateTable, paths: Mapping[str, Path]) -> None:
        """Create the files `paths`, whose folders exist; chunks of other files are not expected."""
        self._stack = ExitStack()
        self._writers: list[SparseWriter] = []
        self._parts: dict[int, tuple[SparseWriter, int, int]] = {}
        first = 1
        with self._stack:
            for file in table.files:
                if file.name in paths:
                    writer = self._stack.enter_context(SparseWriter(paths[file.name], file.size_b))
                    self._writers.append(writer)
                    for number in range(file.chunk_count):
                        size_b = min(CHUNK_B, file.size_b - number * CHUNK_B)
                        self._parts[first + number] = (writer, number, size_b)
                first += file.chunk_count
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, index: int, data: bytes) -> None:
        """Write a chunk. May be called from several threads at once."""
        writer, number, size_b = self._parts[index]
        writer.write(number, data[:size_b])

    def sync(self) -> None:
        """Return when everything that was written survives a power failure."""
        for writer in self._writers:
            writer.sync()


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError("not as it is written")
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= IMAGE_LIMIT_B:
        raise ValueError("not a size")
    return value


def _texts(value: object) -> dict[str, str]:
    texts = {str(name): str(text) for name, text in cast("dict[str, object]", value).items()}
    if len(texts) > _VERSIONS or any(len(name) + len(text) > _TEXT_LIMIT for name, text in texts.items()):
        raise ValueError("too long")
    return texts


def _facts(value: object) -> dict[str, str | int]:
    facts = cast("dict[str, str | int]", value)
    _texts(facts)
    return {str(name): fact if type(fact) is int else str(fact) for name, fact in facts.items()}
