"""A driver for tests without virtual machines: each guest is the real guest agent, run as a process in its own folder.

It needs neither root nor a hypervisor. A layer is a copy of the folder; a restore starts the guest agent anew, so memory is not
kept. Nothing outside of `wrenn.testing` and the tests may use it.
"""

from wrenn.vm.simulated.bases import TEMPLATES, FolderBaseMaker, FolderBases
from wrenn.vm.simulated.disks import FolderDisks
from wrenn.vm.simulated.driver import SimulatedDriver
from wrenn.vm.simulated.groups import ProcessGroups
from wrenn.vm.simulated.machine import SimulatedMachine

__all__ = [
    "TEMPLATES",
    "FolderBaseMaker",
    "FolderBases",
    "FolderDisks",
    "ProcessGroups",
    "SimulatedDriver",
    "SimulatedMachine",
]
