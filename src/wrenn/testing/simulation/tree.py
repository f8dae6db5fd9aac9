"""The files of a simulated guest: a tree in memory, copied in no time because its nodes never change."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import xxhash
from protobuf.wkt.google.protobuf.timestamp_pb import Timestamp

from wrenn.protocol.guest import filesystem_pb as pb
from wrenn.testing.simulation.guest_error import GuestError

DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644
_BASE: Final = ("/bin", "/etc", "/home", "/home/user", "/root", "/usr", "/var")


@dataclass(frozen=True, slots=True)
class Node:
    """A file, or a directory, whose `content` is None."""

    content: bytes | None
    mode: int
    owner: str
    modified_at: float

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.content is None


class Tree:
    """Files by absolute path. Permissions and symbolic links are not simulated."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self._nodes = nodes

    @classmethod
    def of_base(cls) -> Tree:
        """The directories of a template."""
        return cls({path: Node(None, DIRECTORY_MODE, "root", 0.0) for path in ("/", *_BASE)})

    def copy(self) -> Tree:
        """Return an independent copy."""
        return Tree(dict(self._nodes))

    def to_json(self) -> list[list[object]]:
        """Return all nodes in a form that `from_json` reads."""
        return [
            [
                path,
                None if node.content is None else node.content.hex(),
                node.mode,
                node.owner,
                node.modified_at,
            ]
            for path, node in sorted(self._nodes.items())
        ]

    @classmethod
    def from_json(cls, nodes: list[list[Any]]) -> Tree:
        """Return a tree that `to_json` described."""
        return cls(
            {
                path: Node(None if content is None else bytes.fromhex(content), mode, owner, modified_at)
                for path, content, mode, owner, modified_at in nodes
            }
        )

    @property
    def size_b(self) -> int:
        """Bytes in all files."""
        return sum(len(node.content or b"") for node in self._nodes.values())

    def digest(self) -> str:
        """Return a digest of all names and contents."""
        whole = xxhash.xxh3_128()
        for path, node in sorted(self._nodes.items()):
            whole.update(f"{len(path)} {path} {node.mode} {node.owner} ".encode())
            whole.update(b"/" if node.content is None else b"%d " % len(node.content) + node.content)
        return whole.hexdigest()

    def node(self, path: str, *, doing: str) -> Node:
        """Return what is at a path.

        Raises:
            GuestError: nothing is.
        """
        self._require_directory(posixpath.dirname(path), doing, path)
        if (node := self._nodes.get(path)) is None:
            raise GuestError("not_found", f"path '{path}' does not exist (cannot {doing} it)")
        return node

    def _require_directory(self, parent: str, doing: str, path: str) -> None:
        while parent not in self._nodes and parent != "/":
            parent = posixpath.dirname(parent)
        if not self._nodes[parent].is_directory:
            raise GuestError("invalid_argument", f"cannot {doing} '{path}': Not a directory (os error 20)")

    def read(self, path: str) -> bytes:
        """Return the content of a file. Raises GuestError."""
        content = self.node(path, doing="read").content
        if content is None:
            raise GuestError("invalid_argument", f"path '{path}' is a directory")
        return content

    def write(self, path: str, content: bytes, *, owner: str, mode: int | None, now: float) -> None:
        """Write a file and make missing parents. Raises GuestError."""
        former = self._nodes.get(path)
        if former is not None and former.is_directory:
            raise GuestError("invalid_argument", f"path '{path}' is a directory")
        self._make_all(posixpath.dirname(path), owner=owner, now=now)
        if mode is None:
            mode = FILE_MODE if former is None else former.mode
        self._nodes[path] = Node(content, mode, owner, now)

    def make_directory(self, path: str, *, owner: str, now: float) -> None:
        """Make a directory and its parents. Raises GuestError."""
        if not self._make_all(path, owner=owner, now=now):
            raise GuestError("already_exists", f"directory already exists: {path}")

    def _make_all(self, path: str, *, owner: str, now: float) -> bool:
        self._require_directory(path, "make the directory", path)
        made = False
        while path not in self._nodes:
            self._nodes[path] = Node(None, DIRECTORY_MODE, owner, now)
            path, made = posixpath.dirname(path), True
        return made

    def move(self, source: str, destination: str, *, owner: str, now: float) -> None:
        """Rename a file or a directory with everything in it, and make missing parents. Raises GuestError."""
        moved = self.node(source, doing="move")
        self._make_all(posixpath.dirname(destination), owner=owner, now=now)
        there = self._nodes.get(destination)
        if destination == source:
            return
        if destination.startswith(f"{source}/"):
            raise GuestError("invalid_argument", f"cannot move '{source}': Invalid argument (os error 22)")
        if there is not None and there.is_directory != moved.is_directory:
            text = "Is a directory (os error 21)" if there.is_directory else "Not a directory (os error 20)"
            raise GuestError("invalid_argument", f"cannot move '{source}': {text}")
        if there is not None and there.is_directory and any(self.below(destination)):
            raise GuestError(
                "failed_precondition", f"cannot move '{source}': Directory not empty (os error 39)"
            )
        for path in [source, *self.below(source)]:
            self._nodes[destination + path.removeprefix(source)] = self._nodes.pop(path)

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with everything in it; a missing one is ignored. Raises GuestError."""
        if path == "/":
            raise GuestError("invalid_argument", "cannot remove '/': Invalid argument (os error 22)")
        for inner in [path, *self.below(path)]:
            self._nodes.pop(inner, None)

    def below(self, path: str) -> list[str]:
        """Return all paths below a directory, each directory directly before its content."""
        prefix = path.rstrip("/") + "/"
        found = (inner for inner in self._nodes if inner.startswith(prefix) and inner != "/")
        return sorted(found, key=lambda inner: inner.split("/"))

    def list(self, path: str, *, depth: int) -> Iterator[pb.EntryInfo]:
        """Yield the entries of a directory, `depth` levels deep. Raises GuestError."""
        if not self.node(path, doing="list").is_directory:
            raise GuestError("invalid_argument", f"cannot list '{path}': Not a directory (os error 20)")
        level = len(path.rstrip("/").split("/"))
        for inner in self.below(path):
            if len(inner.split("/")) <= level + max(1, depth):
                yield self.entry(inner)

    def entry(self, path: str) -> pb.EntryInfo:
        """Describe what is at a path. Raises GuestError."""
        node = self.node(path, doing="look at")
        bits = "".join(
            letter if node.mode & 1 << bit else "-"
            for bit, letter in zip(range(8, -1, -1), "rwxrwxrwx", strict=True)
        )
        return pb.EntryInfo(
            name=posixpath.basename(path) or "/",
            type=pb.FileType.DIRECTORY if node.is_directory else pb.FileType.FILE,
            path=path,
            size=len(node.content or b""),
            mode=node.mode,
            permissions=("d" if node.is_directory else "-") + bits,
            owner=node.owner,
            group=node.owner,
            modified_time=Timestamp(seconds=int(node.modified_at), nanos=int(node.modified_at % 1 * 1e9)),
        )
