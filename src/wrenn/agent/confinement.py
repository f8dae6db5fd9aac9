"""Limits for VMM processes: cgroup, user and maximum file size."""

from __future__ import annotations

from typing import Final, Protocol

from wrenn.agent.layout import Layout
from wrenn.base.units import GIB, MIB
from wrenn.linux import cgroups
from wrenn.linux.process import ProcessRef
from wrenn.linux.spawn import file_limit_of, raise_file_limit
from wrenn.vm import Confinement, Shape

_VMM_OVERHEAD_B: Final = 320 * MIB
"""QEMU itself and, under emulation, its translated code, over the guest's own memory."""
_MEMORY_COPIES: Final = 2
"""The first write to a page that the memory image does not hold has the kernel allocate it twice: once in the image's memfd,
zeroed, and once for the guest. Both are charged to the VMM, so a guest that fills its RAM may take up to twice its size."""
_VMM_PIDS: Final = 64
_CPU_OVERHEAD: Final = 0.5
"""I/O threads of the VMM beside the vCPUs."""
_LAYER_OVERHEAD: Final = 1000
"""A qcow2 file has 10 bytes of tables for each 64 KiB: a thousandth is several times that."""
_FILE_OVERHEAD_B: Final = 64 * MIB
_BETWEEN_CHECKS_B: Final = 2 * GIB
"""What the fastest disk writes between two looks of the disk watch."""
_REMOVE_TIMEOUT_S: Final = 10.0


def layer_limit_b(disk_mb: int) -> int:
    """Return the largest size of a layer file, in bytes, for a disk of this size."""
    return disk_mb * MIB + disk_mb * MIB // _LAYER_OVERHEAD


def file_limit_b(shape: Shape, disk_mb: int, share_b: int) -> int:
    """Return the largest file that a VMM may write (RLIMIT_FSIZE), in bytes.

    That is the sandbox's share of the host's disk and what the watch may miss; at least what the layer of a disk of this size, or
    a memory image, can come to. A VMM that does what it should never meets it.
    """
    layer_b = layer_limit_b(disk_mb)
    most_b = share_b + _BETWEEN_CHECKS_B if share_b else 0
    return max(most_b, layer_b, shape.memory_mb * MIB) + _FILE_OVERHEAD_B


class Confiner(Protocol):
    """Limits the processes of a machine, and finds them by the machine's name."""

    def confine(
        self, name: str, slot_index: int, shape: Shape, *, file_size_b: int, io_b_per_s: int = 0
    ) -> Confinement:
        """Create the limits of `name` and return the user and cgroup for the VMM in this slot. Idempotent."""
        ...

    async def release(self, name: str) -> None:
        """Kill all processes of `name`, wait for their exit, and remove the limits. An unknown name is ignored."""
        ...

    def names(self) -> list[str]:
        """Return the names that have processes or limits, whether or not a journal mentions them."""
        ...

    def raise_file_limit(self, process: ProcessRef, size_b: int, *, at_least_b: int) -> bool:
        """Raise the file size limit of a running VMM. Return whether the limit is now at least `at_least_b`."""
        ...


class CgroupConfiner:
    """Limits VMMs with one cgroup and one user id each."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def confine(
        self, name: str, slot_index: int, shape: Shape, *, file_size_b: int, io_b_per_s: int = 0
    ) -> Confinement:
        """Create the cgroup of `name`."""
        limits = cgroups.Limits(
            memory_b=_MEMORY_COPIES * shape.memory_mb * MIB + _VMM_OVERHEAD_B,
            cpus=shape.vcpus + _CPU_OVERHEAD,
            pids=_VMM_PIDS,
            # All alike: who has more vCPUs gets more time by having more threads.
            io_b_per_s=io_b_per_s,
            io_device=cgroups.disk_of(self._layout.data_dir),
        )
        return Confinement(
            uid=self._layout.vmm_uid(slot_index),
            cgroup_procs=cgroups.create(self._layout.cgroup(name), limits),
            file_size_b=file_size_b,
        )

    async def release(self, name: str) -> None:
        """Kill the processes in the cgroup of `name` and remove it."""
        await cgroups.remove(self._layout.cgroup(name), timeout_s=_REMOVE_TIMEOUT_S)

    def names(self) -> list[str]:
        """Return the names that have a cgroup."""
        return cgroups.children(self._layout.cgroup_root)

    def raise_file_limit(self, process: ProcessRef, size_b: int, *, at_least_b: int) -> bool:
        """Raise RLIMIT_FSIZE of the process as far as this host permits."""
        return raise_file_limit(process.pid, size_b) or file_limit_of(process.pid) >= at_least_b
