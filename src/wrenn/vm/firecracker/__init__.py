"""Firecracker driver: VMs under KVM, each in a jail of its own. Details: docs/design/vm-firecracker.md."""

from wrenn.vm.firecracker.driver import FirecrackerDriver
from wrenn.vm.firecracker.installation import Installation, find_installation

__all__ = ["FirecrackerDriver", "Installation", "find_installation"]
