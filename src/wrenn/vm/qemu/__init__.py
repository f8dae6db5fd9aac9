"""QEMU driver: q35 machine with KVM where it works, otherwise software emulation. Details: docs/design/vm-qemu.md."""

from wrenn.vm.memory_files import SAVED_FILES
from wrenn.vm.qemu.accelerator import AcceleratorChoice, choose_accelerator, qemu_version
from wrenn.vm.qemu.bases import QemuBases
from wrenn.vm.qemu.disks import Qcow2Disks
from wrenn.vm.qemu.driver import QemuDriver

__all__ = [
    "SAVED_FILES",
    "AcceleratorChoice",
    "Qcow2Disks",
    "QemuBases",
    "QemuDriver",
    "choose_accelerator",
    "qemu_version",
]
