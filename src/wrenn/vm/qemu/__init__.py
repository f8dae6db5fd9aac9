"""QEMU driver: q35, KVM where it really works, else software emulation. Facts in docs/design/vm-qemu.md."""

from wrenn.vm.qemu.driver import QemuDriver
from wrenn.vm.qemu.probe import choose_accelerator, qemu_version

__all__ = ["QemuDriver", "choose_accelerator", "qemu_version"]
