"""Chooses the accelerator by booting a guest kernel with KVM once; the result is cached.

A machine can have `/dev/kvm` and yet boot no Linux guest with it (nested virtualisation without hardware support):
the file proves nothing, a booted kernel does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Final

from wrenn.base.errors import StorageFull
from wrenn.linux.boot import boot_id
from wrenn.linux.command import CommandError, run
from wrenn.linux.files import write_json
from wrenn.vm.qemu.command_line import BINARY, CPU_MODEL

_KVM: Final = Path("/dev/kvm")
_GROUP_RW: Final = stat.S_IRGRP | stat.S_IWGRP
_PROBE_TIMEOUT_S: Final = 10.0
"""With working KVM the kernel panics for want of a root disk after about one second."""
_PROBE_ARGUMENTS: Final = (
    "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
    "-machine", "q35", "-accel", "kvm", "-cpu", CPU_MODEL["kvm"], "-m", "128",
)  # fmt: skip
_PROOF: Final = b"Kernel panic - not syncing"


async def qemu_version() -> str:
    """Version of the installed QEMU, e.g. `7.2.22`.

    Raises:
        CommandError: it is not installed.
    """
    text = (await run([BINARY, "--version"], timeout_s=10)).decode()
    match = re.search(r"version (\d+(?:\.\d+)+)", text)
    if match is None:
        raise CommandError("QEMU does not tell its version.", context={"output": text[:200]})
    return match[1]


def kvm_group() -> int | None:
    """The group whose members may use KVM, as the VMM's user will; None when there is no KVM or no such group.

    Debian and Ubuntu make the device `root:kvm`, mode 660. QEMU opens it itself, and it does not run as root.
    """
    try:
        return group_with_access(_KVM.stat())
    except FileNotFoundError:
        return None


def group_with_access(device: os.stat_result) -> int | None:
    """Return the group, other than root's, that may read and write the device, if there is one."""
    may_group = device.st_gid != 0 and device.st_mode & _GROUP_RW == _GROUP_RW
    return device.st_gid if may_group else None


async def choose_accelerator(*, kernel: Path, memory_of_choice: Path) -> str:
    """Return `kvm` if a guest kernel boots with it, otherwise `tcg`.

    The answer is kept in the file `memory_of_choice` for this boot of the machine and this QEMU.
    """
    if kvm_group() is None:
        with contextlib.suppress(OSError, StorageFull):  # only for those who ask what was chosen
            write_json(memory_of_choice, {"facts": None, "accelerator": "tcg"}, durable=False)
        return "tcg"
    facts = {
        "boot_id": boot_id(),
        "qemu": await qemu_version(),
        "group": kvm_group(),
    }
    with contextlib.suppress(OSError, ValueError):
        remembered = json.loads(memory_of_choice.read_text())
        if remembered["facts"] == facts:
            return str(remembered["accelerator"])
    accelerator = "kvm" if await _boots_with_kvm(kernel) else "tcg"
    with contextlib.suppress(OSError, StorageFull):  # asked again next time
        write_json(memory_of_choice, {"facts": facts, "accelerator": accelerator}, durable=False)
    return accelerator


async def _boots_with_kvm(kernel: Path) -> bool:
    try:
        console = await run(
            [BINARY, *_PROBE_ARGUMENTS, "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"],
            timeout_s=_PROBE_TIMEOUT_S,
        )
    except CommandError:
        return False
    return _PROOF in console
