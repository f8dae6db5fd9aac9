"""Virtual machines: what a driver promises (`driver.py`) and the drivers."""

from wrenn.vm.driver import BootRequest, Confinement, Disk, RestoreRequest, Shape, Vm, VmDriver, VmHandle

__all__ = ["BootRequest", "Confinement", "Disk", "RestoreRequest", "Shape", "Vm", "VmDriver", "VmHandle"]
