"""Recipes of templates: data in `images/<name>/` of the repository, or inside the installed package.

A recipe that `extends` another one has its packages too, and everything else of it that it does not set itself.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wrenn.base.errors import InvalidState, NotFound
from wrenn.storage.images.manifest import FORMAT, checked_template_name
from wrenn.storage.images.service import Service

_PACKAGE: Final = Path(__file__).resolve().parents[2]
_EXTENDS_LIMIT: Final = 4
_PLACES: Final = (_PACKAGE / "_images", _PACKAGE.parents[1] / "images")
"""Where a wheel has the recipes, and where a checkout has them."""


@dataclass(frozen=True, slots=True)
class User:
    """The unprivileged user of a template, who may use sudo without a password."""

    name: str
    uid: int
    shell: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Packages and settings of a template.

    Attributes:
        folder: where the recipe and its locks are.
        packages: wanted packages; apt adds what they need.
        environment: variables of every process of the guest.
        files: content of further files by path, without the leading slash.
        folders: folders beside the recipe that are copied, by their path in the template.
        service: what runs in every sandbox from the beginning, if anything does.
        sources: lines of the guest's own sources.list.
        pins: exact versions by package name; empty without a lock for this suite.
    """

    name: str
    folder: Path
    suite: str
    size_gib: int
    hostname: str
    packages: tuple[str, ...]
    dpkg_options: tuple[str, ...]
    user: User
    environment: dict[str, str]
    files: dict[str, str]
    folders: dict[str, Path]
    service: Service | None
    sources: tuple[str, ...]
    pins: dict[str, str]
    digest: str

    @property
    def lock(self) -> Path:
        """The lock file with exact package versions for this suite."""
        return lock_path(self.folder, self.suite)


def lock_path(folder: Path, suite: str) -> Path:
    """Return the path of the lock file for a suite."""
    return folder / f"packages.{suite}.lock"


def load_recipe(name: str, suite: str) -> Recipe:
    """Read the recipe of a template for a suite.

    Raises:
        NotFound: no such recipe, or it does not know this suite.
        InvalidState: recipes extend each other in a circle.
    """
    folder, parsed, sources = _read(name)
    lock = lock_path(folder, suite)
    pins_source = lock.read_bytes() if lock.is_file() else b""
    user = parsed["user"]
    if suite not in parsed["sources"]:
        raise NotFound(f"The recipe of the template {name!r} has no package sources for {suite}.")
    folders = {target: folder / source for target, source in parsed.get("folders", {}).items()}
    digest = hashlib.sha256(b"%d\0%s\0%s\0%s" % (FORMAT, suite.encode(), b"\0".join(sources), pins_source))
    for source in folders.values():
        for path in _files_below(source):
            digest.update(b"\0%s\0%s" % (str(path.relative_to(folder)).encode(), path.read_bytes()))
    return Recipe(
        name=name,
        folder=folder,
        suite=suite,
        size_gib=parsed["size_gib"],
        hostname=parsed["hostname"],
        packages=tuple(parsed["packages"]),
        dpkg_options=tuple(parsed["dpkg_options"]),
        user=User(user["name"], user["uid"], user["shell"]),
        environment=parsed.get("environment", {}),
        files=parsed.get("files", {}),
        folders=folders,
        service=Service.parse(parsed.get("service"), what=f"recipe {name}"),
        sources=tuple(parsed["sources"][suite]),
        pins=dict(line.split("=", 1) for line in pins_source.decode().splitlines()),
        digest=digest.hexdigest(),
    )


def copy_folder(source: Path, target: Path) -> None:
    """Copy what a recipe's folder has to `target`; readable by all, without what Python compiled."""
    for path in _files_below(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        place.chmod(0o644)


def _files_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    if not found:
        raise NotFound(f"The recipe's folder {folder.name} is missing or empty.")
    return found


def _read(name: str) -> tuple[Path, dict[str, Any], list[bytes]]:
    """Return the folder of a recipe, its content together with what it extends, and the bytes of all files of which it consists."""
    sources: list[bytes] = []
    chain: list[tuple[Path, dict[str, Any]]] = []
    following: str | None = name
    while following is not None:
        if len(chain) == _EXTENDS_LIMIT:
            raise InvalidState(f"The recipe of the template {name!r} extends too many others.")
        checked_template_name(following)
        folder = next(
            (place / following for place in _PLACES if (place / following / "recipe.toml").is_file()), None
        )
        if folder is None:
            raise NotFound(f"There is no recipe for a template {following!r}.")
        sources.append((folder / "recipe.toml").read_bytes())
        chain.append((folder, tomllib.loads(sources[-1].decode())))
        following = chain[-1][1].get("extends")
    merged: dict[str, Any] = {}
    for _, parsed in reversed(chain):
        packages = [*merged.get("packages", []), *parsed.get("packages", [])]
        files = {**merged.get("files", {}), **parsed.get("files", {})}
        environment = {**merged.get("environment", {}), **parsed.get("environment", {})}
        # Folders and service are of the recipe that has them: its own folder has the files.
        inherited = {key: value for key, value in merged.items() if key not in ("folders", "service")}
        merged = {**inherited, **parsed, "packages": packages, "files": files, "environment": environment}
    return chain[0][0], merged, sources
