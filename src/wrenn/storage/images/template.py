"""Templates: root file systems built with mmdebstrap from the machine's apt sources, packed as sparse ext4 images."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from wrenn.base.errors import Unavailable, WrennError
from wrenn.base.units import GIB
from wrenn.linux import apt
from wrenn.linux.command import CommandError, run
from wrenn.storage.images.customize import customize
from wrenn.storage.images.distributions import Distribution
from wrenn.storage.images.manifest import (
    FORMAT,
    SCRATCH_PREFIX,
    FileFacts,
    Manifest,
    checked_file,
    checked_template_name,
    publish,
    read_manifest,
    text,
)
from wrenn.storage.images.recipe import Recipe
from wrenn.storage.images.service import Service

_BOOTSTRAP_TIMEOUT_S: Final = 1800.0
"""It takes 25 s on a fast machine; a slow mirror and one slow core must fit in."""

_PACK_TIMEOUT_S: Final = 300.0

# Every sandbox has a file system of its own, so nothing is lost when all of them have the same ids.
_FILESYSTEM_UUID: Final = "77726e6e-0000-4000-8000-000000000001"
_HASH_SEED: Final = "77726e6e-0000-4000-8000-000000000002"


@dataclass(frozen=True, slots=True)
class Template:
    """A built template."""

    name: str
    rootfs: Path
    digest: str
    source_digest: str
    service: Service | None = None


def load_template(templates: Path, name: str) -> Template:
    """Return a template after checking that its image exists.

    Raises:
        NotFound: not built, or no name of a template.
        InvalidState: damaged.
    """
    what = f"template {checked_template_name(name)}"
    manifest = read_manifest(templates / name / "manifest.json", what=what)
    rootfs = templates / name / "rootfs.ext4"
    facts = checked_file(rootfs, manifest.get("rootfs"), what=what)
    return Template(
        name,
        rootfs,
        facts.digest,
        text(manifest, "source_digest", what=what),
        Service.parse(manifest.get("service"), what=what),
    )


def content_of(templates: Path, name: str) -> str:
    """Return a digest of the template's recipe and of the versions of its packages; empty: not known.

    It is the same on all hosts that installed the same packages, where the images differ by the time at which they were made.
    """
    path = templates / name / "manifest.json"
    try:
        found = path.stat()
    except OSError:
        return ""
    return _content_of(path, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=64)
def _content_of(path: Path, _version: tuple[int, int, int]) -> str:
    # Agents ask every second, and a manifest is never changed in its place.
    what = f"template {path.parent.name}"
    try:
        manifest = read_manifest(path, what=what)
        source = text(manifest, "source_digest", what=what)
    except WrennError:
        return ""
    packages = manifest.get("packages")
    if not isinstance(packages, dict):
        return ""
    made_of = json.dumps([source, packages], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(made_of.encode()).hexdigest()


async def build_template(
    templates: Path,
    recipe: Recipe,
    distribution: Distribution,
    progress: Callable[[str], None],
    *,
    lock_fd: int,
) -> Template:
    """Build `templates/<name>` from a recipe. Requires the build lock, whose descriptor is `lock_fd`.

    Raises:
        Unavailable: apt cannot fetch or install the packages.
        CommandError: mkfs.ext4 failed.
    """
    with tempfile.TemporaryDirectory(
        prefix=SCRATCH_PREFIX, dir=templates, ignore_cleanup_errors=True
    ) as scratch:
        root, result = Path(scratch) / "root", Path(scratch) / "result"
        result.mkdir()
        progress(f"installing {recipe.suite} packages for the template {recipe.name} (about a minute)")
        versions = await _install(root, recipe, distribution, lock_fd=lock_fd)
        differing = {name: version for name, version in versions.items() if recipe.pins.get(name) != version}
        if recipe.pins and differing:
            progress(
                f"note: apt no longer has {len(differing)} of {len(versions)} locked versions; newer ones were taken "
                f"({', '.join(sorted(differing)[:5])}{', …' if len(differing) > 5 else ''})"
            )
        await customize(root, recipe)
        progress(f"packing the template {recipe.name} into an image of {recipe.size_gib} GiB")
        rootfs = result / "rootfs.ext4"
        await _pack(root, rootfs, size_b=recipe.size_gib * GIB)
        manifest: Manifest = {
            "format": FORMAT,
            "name": recipe.name,
            "suite": recipe.suite,
            "source_digest": recipe.digest,
            "rootfs": FileFacts.of(rootfs).to_json(),
            "packages": versions,
            "service": asdict(recipe.service) if recipe.service else None,
            "differs_from_lock": sorted(differing) if recipe.pins else [],
        }
        await publish(result, templates / recipe.name, manifest)
    return load_template(templates, recipe.name)


async def resolve_versions(
    scratch: Path, recipe: Recipe, distribution: Distribution, *, lock_fd: int
) -> dict[str, str]:
    """Return the versions that apt would choose now, ignoring the lock file. Installs into `scratch`."""
    return await _install(scratch / "root", replace(recipe, pins={}), distribution, lock_fd=lock_fd)


async def _install(root: Path, recipe: Recipe, distribution: Distribution, *, lock_fd: int) -> dict[str, str]:
    """Install the packages into `root`; return the installed versions by name."""
    # A pin at priority 1001 makes apt take exactly this version, also for what the packages need in turn; a version
    # that the archive no longer has is passed over, and the newest is taken.
    pins = root.with_name("pins")
    pins.write_text(
        "".join(f"Package: {n}\nPin: version {v}\nPin-Priority: 1001\n\n" for n, v in recipe.pins.items())
    )
    sources = root.with_name("sources.list")
    lines = await apt.source_lines(distribution.origin, keyring=distribution.keyring)
    sources.write_text("".join(f"{line}\n" for line in lines))
    try:
        await run(
            [
                # Its own mount and process namespaces: however this ends, no mount and no process is left.
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--quiet",
                f"--include={','.join(recipe.packages)}",
                *(f"--dpkgopt={option}" for option in recipe.dpkg_options),
                *(f"--aptopt={option}" for option in await apt.acquire_options()),
                f"--setup-hook=copy-in {pins} /etc/apt/preferences.d",
                recipe.suite, str(root), str(sources),
            ],
            timeout_s=_BOOTSTRAP_TIMEOUT_S,
            # Held open by the child: a build that starts after our death waits until this one has ended too.
            pass_fds=(lock_fd,),
        )  # fmt: skip
    except CommandError as error:
        raise Unavailable(
            f"mmdebstrap could not install the template {recipe.name}: {apt.reason_of(error)} "
            "Check the network, /etc/apt and the free disk space, then run again: sudo wrenn images build",
            context=error.context,
        ) from error
    listing = await run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}=${Version}\n"], timeout_s=30
    )
    return dict(line.split("=", 1) for line in sorted(listing.decode().splitlines()))


async def _pack(root: Path, image: Path, *, size_b: int) -> None:
    with image.open("xb") as file:
        file.truncate(size_b)
    image.chmod(0o600)
    await run(["mkfs.ext4", *mkfs_arguments(root, image)], timeout_s=_PACK_TIMEOUT_S)


def mkfs_arguments(root: Path, image: Path) -> list[str]:
    """Return the arguments of `mkfs.ext4` that pack `root` into the file `image`, which is one hole of the size to be."""
    # Inode tables and journal are zero already: without the flag, every guest's kernel would zero them in the background and
    # so fill its copy-on-write layer.
    return [
        "-q", "-F", "-L", "wrenn-root", "-m", "0", "-U", _FILESYSTEM_UUID,
        "-E", f"hash_seed={_HASH_SEED},assume_storage_prezeroed=1,root_owner=0:0",
        "-d", str(root), str(image),
    ]  # fmt: skip
