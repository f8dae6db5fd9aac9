"""The repository as its own tests see it: files that git knows or will know, and parsed modules."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_GENERATED: Final = ("_pb.py", "_connect.py")


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file, parsed.

    Attributes:
        nodes: all nodes of the tree.
        imported: all modules that it imports anywhere, by full name; `from a import b` counts as `a` and `a.b`.
    """

    path: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]
    imported: frozenset[str]


def _imported(nodes: Iterable[ast.AST]) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes:
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case _:
                pass
    return frozenset(names)


@cache
def files(*suffixes: str) -> list[Path]:
    """Files of the repository with one of these suffixes (all without), without what git ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    paths = [ROOT / name for name in sorted(filter(None, listing.split("\0")))]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


@cache
def modules(below: str) -> list[Module]:
    """The written (not generated) Python modules below a folder."""
    return [
        _module(path)
        for path in files(".py")
        if path.is_relative_to(ROOT / below) and not path.name.endswith(_GENERATED)
    ]


@cache
def _module(path: Path) -> Module:
    tree = ast.parse(path.read_bytes())
    nodes = tuple(ast.walk(tree))
    return Module(str(path.relative_to(ROOT)), tree, nodes, _imported(nodes))
