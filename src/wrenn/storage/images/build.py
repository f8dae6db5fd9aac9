"""Builds missing images once, however many processes ask for them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from wrenn.base.errors import DeadlineExceeded, Forbidden, InvalidState, NotFound
from wrenn.linux import apt
from wrenn.storage.images.distributions import Distribution, this_distribution
from wrenn.storage.images.images import INITRAMFS, KERNELS, TEMPLATES, Images, load_images
from wrenn.storage.images.initramfs import build_initramfs, envd_digest, load_initramfs
from wrenn.storage.images.kernel import Kernel, build_kernel, load_kernel, newest_version
from wrenn.storage.images.manifest import SCRATCH_PREFIX, sweep
from wrenn.storage.images.recipe import load_recipe
from wrenn.storage.images.template import build_template, load_template, resolve_versions

_LOCK_FILE: Final = ".build-lock"
"""In the folder of the kernels: data folders that share their images by links share the lock too."""

_FOLDERS: Final = (KERNELS, INITRAMFS, TEMPLATES)
_LOCK_TIMEOUT_S: Final = 3600.0
_LOCK_RETRY_S: Final = 0.2

# Program -> Debian package that has it.
_TOOLS: Final = {
    "apt-get": "apt", "dpkg-deb": "dpkg", "mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "depmod": "kmod",
    "lz4": "lz4", "zstd": "zstd", "unshare": "util-linux", "chroot": "coreutils",
}  # fmt: skip
_TOOL_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def ensure_images(
    data_dir: Path,
    *,
    envd: Path,
    template: str = "minimal",
    progress: Callable[[str], None],
    refresh: bool = False,
) -> Images:
    """Build the kernel, initramfs and template in `data_dir` that are missing, damaged or out of date.

    Takes milliseconds when all is there. Processes that ask at the same time build once. A death at any moment leaves
    only scratch files, which the next call removes. With `refresh` the newest kernel and packages are fetched again.

    Raises:
        Forbidden: something must be built and this is not root.
        NotFound: envd, a tool or the recipe is missing.
        Unavailable: apt cannot reach its mirrors.
        CommandError: a tool failed.
    """
    if not refresh and (current := _current(data_dir, envd, template)) is not None:
        return current
    _require_root_and_tools()
    async with _build_lock(data_dir, progress) as lock_fd:
        await _sweep(data_dir)
        if not refresh and (current := _current(data_dir, envd, template)) is not None:
            return current  # somebody else built it while this process waited for the lock
        distribution = this_distribution()
        kernel = await _ensure_kernel(data_dir, distribution, progress, refresh=refresh)
        await build_initramfs(data_dir / INITRAMFS, kernel, envd)
        recipe = load_recipe(template, distribution.suite)
        if refresh or not _is_current_template(data_dir, template, recipe.digest):
            await build_template(data_dir / TEMPLATES, recipe, distribution, progress, lock_fd=lock_fd)
        return load_images(data_dir, template)


async def lock_packages(
    data_dir: Path, *, template: str = "minimal", progress: Callable[[str], None]
) -> Path:
    """Write the versions that apt would install now to the recipe's lock file, and return its path.

    Raises:
        Forbidden: this is not root.
        NotFound: a tool or the recipe is missing.
        Unavailable: apt cannot reach its mirrors.
        CommandError: a tool failed.
    """
    _require_root_and_tools()
    distribution = this_distribution()
    recipe = load_recipe(template, distribution.suite)
    async with _build_lock(data_dir, progress) as lock_fd:
        await sweep(data_dir / TEMPLATES)
        progress(f"installing the newest {recipe.suite} packages to learn their versions")
        with tempfile.TemporaryDirectory(
            prefix=SCRATCH_PREFIX, dir=data_dir / TEMPLATES, ignore_cleanup_errors=True
        ) as scratch:
            versions = await resolve_versions(Path(scratch), recipe, distribution, lock_fd=lock_fd)
    recipe.lock.write_text("".join(f"{name}={version}\n" for name, version in versions.items()))
    return recipe.lock


def abandoned_scratch(data_dir: Path) -> list[Path]:
    """Return folders that a killed build left behind; empty while a build runs."""
    found = sorted(path for folder in _FOLDERS for path in (data_dir / folder).glob(f"{SCRATCH_PREFIX}*"))
    lock = data_dir / KERNELS / _LOCK_FILE
    if not found or not lock.exists():
        return found
    fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        return found if _try_lock(fd) else []
    finally:
        os.close(fd)


async def remove_abandoned_scratch(data_dir: Path) -> None:
    """Remove what `abandoned_scratch` returns; waits for a build that runs."""
    if abandoned_scratch(data_dir):
        async with _build_lock(data_dir, lambda _text: None):
            await _sweep(data_dir)


async def _sweep(data_dir: Path) -> None:
    for folder in _FOLDERS:
        await sweep(data_dir / folder)


def _current(data_dir: Path, envd: Path, template: str) -> Images | None:
    try:
        images = load_images(data_dir, template)
    except (NotFound, InvalidState):
        return None
    if images.envd_digest != envd_digest(envd):
        return None
    if not load_kernel(data_dir / KERNELS, images.kernel_version).is_current:
        return None
    try:
        recipe = load_recipe(template, this_distribution().suite)
    except InvalidState:  # built elsewhere and copied here: nothing to compare with
        return images
    return images if images.recipe_digest == recipe.digest else None


async def _ensure_kernel(
    data_dir: Path, distribution: Distribution, progress: Callable[[str], None], *, refresh: bool
) -> Kernel:
    """Return the current kernel if it is undamaged; otherwise build the newest."""
    kernels = data_dir / KERNELS
    if refresh:
        progress("fetching the package lists")
        await apt.update()
    else:
        with suppress(NotFound, InvalidState):
            kernel = load_kernel(kernels, load_initramfs(data_dir / INITRAMFS).kernel_version)
            if kernel.is_current:
                return kernel
    version = await newest_version(distribution)
    with suppress(NotFound, InvalidState):
        kernel = load_kernel(kernels, version)
        if kernel.is_current:
            return kernel
    return await build_kernel(kernels, version, distribution, progress)


def _is_current_template(data_dir: Path, name: str, source_digest: str) -> bool:
    try:
        return load_template(data_dir / TEMPLATES, name).source_digest == source_digest
    except (NotFound, InvalidState):
        return False


def missing_build_packages() -> list[str]:
    """Return the Debian packages of the programs that build images and that are not installed."""
    return sorted(
        {package for tool, package in _TOOLS.items() if shutil.which(tool, path=_TOOL_PATH) is None}
    )


def _require_root_and_tools() -> None:
    if os.geteuid() != 0:
        raise Forbidden("Building the images needs root (file owners, chroot); run: sudo wrenn images build")
    if missing := missing_build_packages():
        raise NotFound(
            f"Programs that build the images are missing; run: sudo apt-get install -y {' '.join(missing)}"
        )


@asynccontextmanager
async def _build_lock(data_dir: Path, progress: Callable[[str], None]) -> AsyncGenerator[int]:
    """Hold the build lock of `data_dir`; yields its descriptor."""
    folder = data_dir / KERNELS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waiting = False
        try:
            async with asyncio.timeout(_LOCK_TIMEOUT_S):
                # flock has no asynchronous form, and a thread that waits in it could not be cancelled.
                while not _try_lock(fd):
                    if not waiting:
                        progress("waiting for another process that builds the images")
                    waiting = True
                    await asyncio.sleep(_LOCK_RETRY_S)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Another process has been building images for {_LOCK_TIMEOUT_S:.0f} s."
            ) from error
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
