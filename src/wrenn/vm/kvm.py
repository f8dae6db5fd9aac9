"""The KVM device of this machine: whether a VMM that is not root can open it, and who may."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

_KVM: Final = Path("/dev/kvm")
_GROUP_RW: Final = stat.S_IRGRP | stat.S_IWGRP
_CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_FLAGS: Final = {"vmx": "kvm_intel", "svm": "kvm_amd"}
"""Flag of a processor that supports KVM, and the kernel module for it."""


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


def why_no_kvm() -> str:
    """Return why KVM cannot be used at all, and how to change that; empty if it may work."""
    try:
        device = _KVM.stat()
    except FileNotFoundError:
        return why_no_device(_CPUINFO.read_text())
    if group_with_access(device) is None:
        return f"only root may open {_KVM}; run: chgrp kvm {_KVM} && chmod 660 {_KVM}"
    return ""


def why_no_device(cpuinfo: str) -> str:
    """Return why there is no `/dev/kvm` on a machine with this `/proc/cpuinfo`."""
    found = re.search(r"^flags\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = found[1].split() if found else []
    for flag, module in _CPU_FLAGS.items():
        if flag in flags:
            return f"there is no {_KVM} although the processor supports it; run: modprobe {module}"
    return (
        f"there is no {_KVM}, and the processor shows no support for virtualisation: enable it in the firmware or, "
        "for a virtual machine, enable nested virtualisation of its host"
    )
