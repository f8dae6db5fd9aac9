"""What a saved virtual machine was saved on, and what a host has: they have to fit for it to be restored there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

_DIGEST_B: Final = 8


@dataclass(frozen=True, slots=True)
class VmPlatform:
    """The parts that a saved virtual machine shares with its host. A field that is empty is not known, and fits any other.

    Attributes:
        arch: architecture of the machine, as `uname -m` says it.
        vmm: name and version of the VMM.
        accelerator: `kvm`, `tcg` or `none`.
        devices: digest of machine type, CPU model and devices of the virtual machine.
        cpu: vendor, family, model and stepping of the processor; empty if guests do not see the machine's own.
    """

    arch: str = ""
    vmm: str = ""
    accelerator: str = ""
    devices: str = ""
    cpu: str = ""

    def has_same_arch(self, other: VmPlatform) -> bool:
        """Whether both are of the same architecture."""
        return _fits(self.arch, other.arch)

    def has_same_vmm(self, other: VmPlatform) -> bool:
        """Whether both have the same VMM, accelerator and virtual devices."""
        return (
            _fits(self.vmm, other.vmm)
            and _fits(self.accelerator, other.accelerator)
            and _fits(self.devices, other.devices)
        )

    def has_same_cpu(self, other: VmPlatform) -> bool:
        """Whether guests see the same processor on both."""
        return _fits(self.cpu, other.cpu)

    def to_json(self) -> dict[str, str]:
        """Return what is known, as the database stores it."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        """Read what `to_json` returned, also that of a later version."""
        known = value or {}
        return cls(**{name: str(known.get(name, "")) for name in asdict(cls())})


UNKNOWN_PLATFORM: Final = VmPlatform()


def devices_digest(machine: str) -> str:
    """Return the digest of a driver's text about machine type, CPU model and devices."""
    return hashlib.blake2b(machine.encode(), digest_size=_DIGEST_B).hexdigest()


def _fits(one: str, other: str) -> bool:
    return not one or not other or one == other
