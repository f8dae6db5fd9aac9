"""Turns an installed base system into a template: user, names and locale, and nothing specific to the build machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from wrenn.linux.command import run
from wrenn.storage.images.recipe import Recipe, copy_folder

_TIMEOUT_S: Final = 60.0

_OF_THE_BUILD: Final = (
    "etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/preferences.d/pins", "etc/apt/sources.list.d", "etc/resolv.conf",
    "var/lib/apt/lists", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig/aux-cache", "var/lib/dbus/machine-id",
)  # fmt: skip
_EMPTY_FOLDERS: Final = (
    "etc/apt/sources.list.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/cache/debconf",
)  # fmt: skip


async def customize(root: Path, recipe: Recipe) -> None:
    """Customise the installed system in `root` as the recipe says. Not idempotent."""
    user = recipe.user
    await run(
        [
            "chroot",
            str(root),
            "useradd",
            "--create-home",
            "--user-group",
            "--uid",
            str(user.uid),
            "--shell",
            user.shell,
            user.name,
        ],
        timeout_s=_TIMEOUT_S,
    )
    sudoers = root / "etc/sudoers.d" / user.name
    sudoers.write_text(f"{user.name} ALL=(ALL:ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)

    for name in _OF_THE_BUILD:
        _remove(root / name)
    for name in _EMPTY_FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for log in (root / "var/log").rglob("*"):
        if log.is_file():
            log.write_bytes(b"")

    for name, content in {
        "etc/hostname": f"{recipe.hostname}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {recipe.hostname}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/resolv.conf": "",  # the guest agent writes it
        "etc/machine-id": "",  # every sandbox gets its own
        "etc/default/locale": "LANG=C.UTF-8\n",
        "etc/environment": "".join(f'{name}="{value}"\n' for name, value in recipe.environment.items()),
        "etc/apt/sources.list": "".join(f"{line}\n" for line in recipe.sources),
        **recipe.files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        # mmdebstrap copies some of these files from the build machine with their mode there.
        path.chmod(0o644)
    for name, source in recipe.folders.items():
        copy_folder(source, root / name)
    mtab = root / "etc/mtab"
    mtab.unlink(missing_ok=True)
    mtab.symlink_to("../proc/self/mounts")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
