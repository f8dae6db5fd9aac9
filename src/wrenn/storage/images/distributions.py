"""Differences between the distributions that images can be built on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidState


@dataclass(frozen=True, slots=True)
class Distribution:
    """One release of one distribution.

    Attributes:
        suite: code name, as in package sources.
        origin: as in the archive's Release file.
        keyring: file with the archive's keys.
        kernel: package that depends on the current kernel for virtual machines.
        kernel_image: start of the name of that dependency; the kernel's version follows.
        kernel_modules: start of the name of the package with the modules, when it is another one.
    """

    suite: str
    origin: str
    keyring: str
    kernel: str
    kernel_image: str
    kernel_modules: str | None


_DEBIAN_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_UBUNTU_KEYRING: Final = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"

_KNOWN: Final = {
    ("debian", "bookworm"): Distribution(
        "bookworm", "Debian", _DEBIAN_KEYRING, "linux-image-cloud-amd64", "linux-image-", None
    ),
    ("ubuntu", "noble"): Distribution(
        "noble", "Ubuntu", _UBUNTU_KEYRING, "linux-image-virtual", "linux-image-", "linux-modules-"
    ),
}


def this_distribution() -> Distribution:
    """Return the distribution of this machine.

    Raises:
        InvalidState: images cannot be built on it.
    """
    release = platform.freedesktop_os_release()
    found = _KNOWN.get((release.get("ID", ""), release.get("VERSION_CODENAME", "")))
    if found is None:
        raise InvalidState(
            f"Images cannot be built on {release.get('PRETTY_NAME', 'this system')}: supported are "
            f"{', '.join(f'{name} {suite}' for name, suite in _KNOWN)}. Build them on such a machine and copy "
            "the folders kernels, initramfs and templates of its data folder here."
        )
    return found
