"""What virtual machines that are saved on this host need to be restored."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from wrenn.protocol.vm_platform import VmPlatform, devices_digest
from wrenn.vm import Driver

_CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_FIELDS: Final = ("vendor_id", "cpu family", "model", "stepping")


def platform_of(driver: Driver) -> VmPlatform:
    """Describe what this driver restores on this machine."""
    return VmPlatform(
        arch=platform.machine(),
        vmm=driver.vmm,
        accelerator=driver.accelerator,
        devices=devices_digest(driver.machine),
        # An emulated processor, and a model that is named, are the same on all machines.
        cpu=cpu_of(_CPUINFO.read_text()) if driver.shows_host_cpu else "",
    )


def cpu_of(cpuinfo: str) -> str:
    """Return what identifies the processor in a text like that of `/proc/cpuinfo`; empty: it says nothing.

    Its flags are left out: they change with kernel and microcode, and a virtual machine is restored all the same.
    """
    first = cpuinfo.partition("\n\n")[0]
    fields = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    return "/".join(fields[name] for name in _CPU_FIELDS if name in fields)
