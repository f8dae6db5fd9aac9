"""Checks of the machine: each returns what it found and how to fix a failure."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Final

from wrenn.agent.doctor.advisories import check_advisories
from wrenn.agent.doctor.check_result import Check
from wrenn.agent.inventory import measure
from wrenn.agent.settings import Settings
from wrenn.base.errors import WrennError
from wrenn.base.units import GIB, MIB
from wrenn.linux import cgroups
from wrenn.storage.images import load_images
from wrenn.vm.qemu import choose_accelerator, qemu_version

_COMMANDS: Final = ("qemu-img", "nft", "ip", "unshare")
_MEMORY_WANTED_B: Final = 1 * GIB


async def check_machine(settings: Settings) -> list[Check]:
    """Run all checks of the machine, in the order in which failures should be fixed."""
    return [
        Check("root", ok=os.geteuid() == 0, detail=f"uid {os.geteuid()}", hint="Run it as root."),
        _check_commands(),
        await _check_qemu(),
        await _check_images(settings),
        Check("tun", ok=Path("/dev/net/tun").exists(), detail="/dev/net/tun", hint="Load it: modprobe tun"),
        _check_cgroups(),
        *_check_sizes(settings),
        _check_port(settings),
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


async def _check_qemu() -> Check:
    try:
        return Check("qemu", ok=True, detail=await qemu_version())
    except WrennError as error:
        return Check("qemu", ok=False, detail=error.message, hint="Run: make setup")


async def _check_images(settings: Settings) -> Check:
    hint = f"Run: wrenn images build --data-dir {settings.images_dir}"
    try:
        images = load_images(settings.images_dir)
        accelerator = await choose_accelerator(
            kernel=images.kernel, memory_of_choice=settings.accelerator_choice
        )
    except WrennError as error:
        return Check("images", ok=False, detail=error.message, hint=hint)
    what = "hardware virtualisation (KVM)" if accelerator == "kvm" else "software emulation (no working KVM)"
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


def _check_port(settings: Settings) -> Check:
    """Check that the agent's port is free or that an agent answers on it; `owners.py` identifies which agent."""
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex((settings.listen_host, settings.listen_port)) == 0
    where = f"{settings.listen_host}:{settings.listen_port}"
    return Check("agent port", ok=True, detail=f"{where} is {'in use' if taken else 'free'}")
