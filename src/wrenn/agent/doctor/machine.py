"""Checks of the machine: each returns what it found and how to fix a failure."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

from wrenn.agent.doctor.advisories import check_advisories
from wrenn.agent.doctor.check_result import Check
from wrenn.agent.driver_choice import usable_firecracker
from wrenn.agent.enrolment import CredentialsFile
from wrenn.agent.images.container import missing_packages
from wrenn.agent.machine import measure
from wrenn.agent.settings import MemoryChoice, Settings, VmmChoice
from wrenn.base.errors import InvalidState, WrennError
from wrenn.base.units import GIB, MIB
from wrenn.linux import cgroups
from wrenn.storage.images import load_images
from wrenn.vm.firecracker.pager import find_pager, why_no_pager
from wrenn.vm.qemu import choose_accelerator, qemu_version

_COMMANDS: Final = ("qemu-img", "nft", "ip", "unshare")
_MEMORY_WANTED_B: Final = 1 * GIB


async def check_machine(settings: Settings) -> list[Check]:
    """Run all checks of the machine, in the order in which failures should be fixed."""
    return [
        Check("root", ok=os.geteuid() == 0, detail=f"uid {os.geteuid()}", hint="Run it as root."),
        _check_commands(),
        _check_container_images(),
        await _check_qemu(settings),
        await _check_firecracker(settings),
        await _check_images(settings),
        Check("tun", ok=Path("/dev/net/tun").exists(), detail="/dev/net/tun", hint="Load it: modprobe tun"),
        _check_cgroups(),
        *_check_sizes(settings),
        _check_registration(settings),
        *await check_advisories(),
    ]


def _check_commands() -> Check:
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    return Check(
        "commands",
        ok=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else "all there",
        hint="Run: make setup",
    )


def _check_container_images() -> Check:
    """Say whether container images can be imported. A host that cannot do that is a good host otherwise."""
    missing = missing_packages()
    detail = (
        f"cannot be imported, as these packages are missing: {', '.join(missing)}"
        if missing
        else "can be imported"
    )
    return Check("container images", ok=True, detail=detail)


async def _check_qemu(settings: Settings) -> Check:
    try:
        return Check("qemu", ok=True, detail=await qemu_version())
    except WrennError as error:
        needed = settings.vmm is not VmmChoice.FIRECRACKER
        return Check("qemu", ok=not needed, detail=error.message, hint="Run: make setup")


async def _check_firecracker(settings: Settings) -> Check:
    """Say whether Firecracker can be used. A host without it is a good host, unless its setting asks for it."""
    name, hint = "firecracker", "Install it (docs/howto/run-on-kvm.md), or set WRENN_VMM=qemu."
    if settings.vmm is VmmChoice.QEMU:
        return Check(name, ok=True, detail="not used: WRENN_VMM is qemu")
    try:
        vmm = (await usable_firecracker(settings)).vmm
    except InvalidState as error:
        needed = settings.vmm is VmmChoice.FIRECRACKER
        return Check(
            name, ok=not needed, detail=error.message if needed else f"not used: {error.message}", hint=hint
        )
    reason = "" if settings.firecracker_memory is MemoryChoice.FILE else why_no_pager(find_pager())
    return Check(name, ok=True, detail=f"{vmm}; no page-fault server: {reason}" if reason else vmm)


async def _check_images(settings: Settings) -> Check:
    hint = f"Run: wrenn images build --data-dir {settings.images_dir}"
    try:
        images = load_images(settings.images_dir)
        choice = await choose_accelerator(
            kernel=images.kernel,
            memory_of_choice=settings.accelerator_choice,
            probe_timeout_s=settings.kvm_probe_s,
            cpu_model=settings.cpu_model,
        )
    except WrennError as error:
        return Check("images", ok=False, detail=error.message, hint=hint)
    what = f"software emulation: {choice.reason}" if choice.reason else "hardware virtualisation (KVM)"
    return Check("images", ok=True, detail=f"kernel {images.kernel_version}, {what}", hint=hint)


def _check_cgroups() -> Check:
    missing = cgroups.missing_controllers()
    return Check(
        "cgroups",
        ok=not missing,
        detail=", ".join(cgroups.available_controllers()),
        hint=f"Enable the controllers that are missing: {', '.join(missing)}.",
    )


def _check_sizes(settings: Settings) -> list[Check]:
    folder = settings.data_dir if settings.data_dir.is_dir() else settings.data_dir.parent
    machine = measure(folder)
    return [
        Check(
            "disk",
            ok=machine.disk_available_b > settings.disk_reserve_b,
            detail=f"{machine.disk_available_b // MIB} MiB free",
            hint=f"Free at least {settings.disk_reserve_b // MIB} MiB on the disk of {folder}.",
        ),
        Check(
            "memory",
            ok=machine.memory_available_b > _MEMORY_WANTED_B,
            detail=f"{machine.memory_available_b // MIB} MiB available",
            hint="Remove sandboxes, or use a larger machine.",
        ),
    ]


def _check_registration(settings: Settings) -> Check:
    """Check that this host is registered with a control plane and that its certificate is valid."""
    name, hint = "registration", "Register it again: `wrenn agent join` with a new token, or `wrenn up`."
    try:
        credentials = CredentialsFile(settings.data_dir).load()
    except WrennError as error:
        return Check(name, ok=False, detail=error.message, hint=hint)
    if credentials is None:
        return Check(name, ok=True, detail="not registered with a control plane yet")
    left_s = credentials.expires_at_unix - time.time()
    where = f"{credentials.host_id} at {credentials.control_url}"
    if left_s <= 0:
        return Check(name, ok=False, detail=f"{where}: the certificate has expired", hint=hint)
    return Check(name, ok=True, detail=f"{where}, certificate valid for {left_s / 86400:.1f} days")
