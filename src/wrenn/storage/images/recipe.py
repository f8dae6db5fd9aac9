"""Recipes of templates: data in `images/<name>/` of the repository, or inside the installed package."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import NotFound
from wrenn.storage.images.manifest import FORMAT, checked_template_name

_PACKAGE: Final = Path(__file__).resolve().parents[2]
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
    """
    checked_template_name(name)
    folder = next((place / name for place in _PLACES if (place / name / "recipe.toml").is_file()), None)
    if folder is None:
        raise NotFound(f"There is no recipe for a template {name!r}.")
    source = (folder / "recipe.toml").read_bytes()
    lock = lock_path(folder, suite)
    pins_source = lock.read_bytes() if lock.is_file() else b""
    parsed = tomllib.loads(source.decode())
    user = parsed["user"]
    if suite not in parsed["sources"]:
        raise NotFound(f"The recipe of the template {name!r} has no package sources for {suite}.")
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
        sources=tuple(parsed["sources"][suite]),
        pins=dict(line.split("=", 1) for line in pins_source.decode().splitlines()),
        digest=hashlib.sha256(b"%d\0%s\0%s\0%s" % (FORMAT, suite.encode(), source, pins_source)).hexdigest(),
    )
