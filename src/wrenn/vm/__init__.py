"""Virtual machines: the interface of VM drivers (`driver.py` and the modules it imports), and the drivers."""

from wrenn.vm.bases import BaseStore, Facts
from wrenn.vm.disks import DiskChain, DiskRef
from wrenn.vm.driver import (
    BootRequest,
    BootSource,
    Capabilities,
    Confinement,
    Driver,
    FlattenRequest,
    Link,
    RestoreRequest,
    Shape,
)
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.memory import ImageRef, MemoryImages, OnPartSaved, SavedMemory

__all__ = [
    "BaseStore",
    "BootRequest",
    "BootSource",
    "Capabilities",
    "Confinement",
    "DiskChain",
    "DiskRef",
    "Driver",
    "Facts",
    "FlattenRequest",
    "ImageRef",
    "Link",
    "Machine",
    "MachineHandle",
    "MemoryImages",
    "OnPartSaved",
    "RestoreRequest",
    "SavedMemory",
    "Shape",
]
