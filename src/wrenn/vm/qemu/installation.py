"""Lists the files of the installed QEMU that a VM needs: program, libraries, accelerator module and firmware."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wrenn.linux.command import CommandError, run
from wrenn.linux.private_root import PrivateRoot, RootFile, build_private_root
from wrenn.vm.qemu.command_line import BINARY, FIRMWARE_DIR

_FIRMWARE: Final = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin")
_MODULE_DIRS: Final = ("/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib/qemu")
_MODULES: Final = "accel-tcg-x86_64.so"
_KVM: Final = Path("/dev/kvm")
_TIMEOUT_S: Final = 10.0


async def build_root(accelerator: str) -> PrivateRoot:
    """Build the root file system in which this QEMU runs.

    Raises:
        CommandError: QEMU, one of its libraries or its firmware is not installed.
    """
    folders = (await run([BINARY, "-L", "help"], timeout_s=_TIMEOUT_S)).decode().split("\n")
    files = [RootFile(FIRMWARE_DIR / name, _find(name, folders)) for name in _FIRMWARE]
    if accelerator == "kvm":
        files.append(RootFile(_KVM, device=True))
    # Distributions that build QEMU without modules have none to load.
    modules = [module for folder in _MODULE_DIRS if (module := Path(folder, _MODULES)).exists()]
    return await build_private_root([Path(BINARY), *modules], files=files)


def _find(name: str, folders: Iterable[str]) -> Path:
    for folder in folders:
        if folder and (file := Path(folder, name)).exists():
            return file
    raise CommandError(f"QEMU's firmware {name} is not installed.", context={"folders": list(folders)})
