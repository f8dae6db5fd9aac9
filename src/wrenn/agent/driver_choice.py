"""Chooses the virtual machine monitor of a host by its settings, by what works there, and by what its sandboxes run on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.settings import MemoryChoice, Settings, VmmChoice
from wrenn.base.errors import InvalidState
from wrenn.linux.files import write_json
from wrenn.storage.images import load_images
from wrenn.vm import Driver
from wrenn.vm.firecracker import FirecrackerDriver, Installation, find_installation
from wrenn.vm.firecracker.host_check import why_not_usable
from wrenn.vm.firecracker.pager import PagerStarter, find_pager, why_no_pager
from wrenn.vm.kvm import why_no_kvm
from wrenn.vm.qemu import AcceleratorChoice, QemuDriver, choose_accelerator, qemu_version

_log = logging.getLogger(__name__)

_RECORD: Final = "vmm.json"
"""File in the data folder that names the monitor which the sandboxes there run on."""


async def open_driver(settings: Settings, layout: Layout) -> Driver:
    """Return the driver, ready to start VMs.

    Raises:
        NotFound: kernel or template are not built.
        InvalidState: what the setting asks for does not work here, or there are sandboxes of the other monitor.
    """
    vmm = await choose_vmm(settings, layout)
    if vmm is VmmChoice.FIRECRACKER:
        is_in_use = _vmm_of_sandboxes(layout) is not None
        installation = await usable_firecracker(settings, is_in_use=is_in_use)
        driver = await _firecracker(settings, installation, layout)
    else:
        driver = await _qemu(settings, layout, await _accelerator(settings))
    write_json(layout.data_dir / _RECORD, {"vmm": vmm.value}, durable=True)
    return driver


async def choose_vmm(settings: Settings, layout: Layout) -> VmmChoice:
    """Return QEMU or Firecracker.

    A host that has sandboxes, running or paused, or snapshots stays with their monitor: the other one could neither adopt nor resume them.

    Raises:
        InvalidState: the setting demands the other one.
    """
    present = _vmm_of_sandboxes(layout)
    if settings.vmm is VmmChoice.AUTO:
        return present or await _best(settings)
    if present is not None and present is not settings.vmm:
        raise InvalidState(
            f"WRENN_VMM is {settings.vmm}, but sandboxes or snapshots of this host belong to {present}: remove them first, or set "
            f"WRENN_VMM={present}."
        )
    return settings.vmm


async def usable_firecracker(settings: Settings, *, is_in_use: bool = False) -> Installation:
    """Return the installed Firecracker. `is_in_use`: there are sandboxes or snapshots of it, as `why_not_usable` says.

    Raises:
        InvalidState: it cannot be used here; the message says why and what to do.
    """
    if reason := why_no_kvm():
        raise InvalidState(f"Firecracker needs KVM: {reason}")
    installation = await find_installation(settings.firecracker_dir)
    # `wrenn doctor` may look at a host whose folder is not there yet.
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.is_dir())
    if reason := await why_not_usable(folder, is_in_use=is_in_use):
        raise InvalidState(f"Firecracker cannot be used: {reason}")
    return installation


def _vmm_of_sandboxes(layout: Layout) -> VmmChoice | None:
    """Return the monitor of this host's sandboxes and snapshots; None if there are none."""
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in (layout.sandboxes, layout.snapshots)):
        return None
    return _recorded(layout.data_dir / _RECORD)


def _recorded(path: Path) -> VmmChoice:
    try:
        return {vmm.value: vmm for vmm in (VmmChoice.QEMU, VmmChoice.FIRECRACKER)}[
            json.loads(path.read_text())["vmm"]
        ]
    except FileNotFoundError:
        return VmmChoice.QEMU  # the only one of earlier releases
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidState(
            f'{path} is damaged: write the monitor of this host\'s sandboxes there, as in {{"vmm": "qemu"}}.'
        ) from error


async def _best(settings: Settings) -> VmmChoice:
    try:
        await usable_firecracker(settings)
    except InvalidState as error:
        _log.info("sandboxes run under QEMU", extra={"reason": error.message})
        return VmmChoice.QEMU
    return VmmChoice.FIRECRACKER


async def _firecracker(settings: Settings, installation: Installation, layout: Layout) -> FirecrackerDriver:
    driver = FirecrackerDriver(
        installation=installation,
        folders=layout.folders,
        prefix=layout.cgroup_root,
        disk_reserve_b=settings.disk_reserve_b,
        pager=await _pager(settings),
        serves_images=settings.firecracker_memory is MemoryChoice.UFFD,
    )
    await driver.prepare()
    return driver


async def _pager(settings: Settings) -> PagerStarter | None:
    if settings.firecracker_memory is MemoryChoice.FILE:
        return None
    program = find_pager()
    reason = why_no_pager(program)
    if program is None or reason:
        _log.warning("memory of sandboxes is copied when they are resumed", extra={"reason": reason})
        return None
    return await PagerStarter.of(program)


async def _accelerator(settings: Settings) -> AcceleratorChoice:
    return await choose_accelerator(
        kernel=load_images(settings.images_dir).kernel,
        memory_of_choice=settings.accelerator_choice,
        probe_timeout_s=settings.kvm_probe_s,
        cpu_model=settings.cpu_model,
    )


async def _qemu(settings: Settings, layout: Layout, choice: AcceleratorChoice) -> QemuDriver:
    if choice.reason:
        _log.warning("no KVM: sandboxes are emulated", extra={"reason": choice.reason})
    driver = QemuDriver(
        accelerator=choice.accelerator,
        version=await qemu_version(),
        folders=layout.folders,
        cpu_model=settings.cpu_model,
    )
    await driver.prepare()
    return driver
