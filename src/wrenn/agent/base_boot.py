"""Makes a base by a cold boot: waits for the guest agent, warms the guest up, suspends the VM, and saves it.

It is warmed up by what users run first, so that this is in the guest's page cache. Then the service of the template is started, if it
has one: it goes on in every sandbox that is made from the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.confinement import Confiner, file_limit_b
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.vm_exit import fail_if_vm_exits
from wrenn.base.errors import AgentFailure, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.guest import CommandLine, Commands, GuestConnection, Identity, initialise
from wrenn.network import SlotPool
from wrenn.storage.images import ImageFolder, Images, Service, built_templates, load_boot_files, load_images
from wrenn.vm import BootRequest, BootSource, Driver, Facts, Machine, Shape

_WARM_UP_TIMEOUT_S: Final = 20.0
_SERVICE_TIMEOUT_S: Final = 300.0
"""Jupyter kernels take minutes under emulation on a busy machine."""
_CHECK_TIMEOUT_S: Final = 20.0
_CHECK_EVERY_S: Final = 0.5
_SETTLE_S: Final = 0.5
"""Time for the guest to become idle: processes that still run would continue in every clone."""
_WARM_UP: Final = (
    CommandLine("/bin/sh", ("-c", "true")),
    CommandLine("/bin/bash", ("-l", "-c", "true")),
    CommandLine("/usr/bin/python3", ("-c", "import json, os, subprocess, sys, socket, http.client")),
    CommandLine("/bin/sync"),
)
"""What users run first. A template without one of them is as good."""


@dataclass(frozen=True, slots=True)
class BootedBases:
    """Makes bases by booting the templates in `images_dir`, and `images`. Implements `wrenn.agent.bases.BaseMaker`."""

    images_dir: Path
    images: ImageFolder
    driver: Driver
    slots: SlotPool
    confiner: Confiner
    tokens: Tokens
    guest_dns: str
    start_limit_s: float
    """Within this time a guest must answer; a cold boot takes 3 s under emulation on an idle machine."""

    def templates(self) -> Mapping[str, str]:
        """Return the templates that were built on this host, sorted; without `images`."""
        return built_templates(self.images_dir)

    def facts(self, template: str, shape: Shape) -> Facts:
        """Return everything that determines the content of a base made now: image, kernel, VMM, shape and so on."""
        images = self._load(template)
        return {
            "template": template,
            "image": images.template_digest,
            "kernel": images.kernel_digest,
            "initramfs": images.initramfs_digest,
            "vmm": self.driver.vmm,
            "accelerator": self.driver.accelerator,
            "machine": self.driver.machine,
            "kernel_args": _kernel_args(self.guest_dns),
            "warm_up": repr(_WARM_UP),
            # Absent without one, so that bases of earlier releases stay current.
            **({"service": repr(images.service)} if images.service else {}),
            "token": self.tokens.of("bases").sha256_hex(),
            "vcpus": shape.vcpus,
            "memory_mb": shape.memory_mb,
        }

    def metadata(self, template: str) -> Mapping[str, str]:
        """Return the versions of the kernel and the guest agent."""
        images = self._load(template)
        return {"kernel_version": images.kernel_version, "envd_version": images.envd_digest[:12]}

    def boot_source(self) -> BootSource:
        """Return the kernel and initramfs of this host, with the arguments that bases are booted with."""
        files = load_boot_files(self.images_dir)
        return BootSource(files.kernel, files.initramfs, _kernel_args(self.guest_dns))

    async def make(self, undo: Undo, draft: Path, key: str, template: str, shape: Shape) -> None:
        """Boot the template in `draft`, run the warm-up commands in it, and save memory and device state."""
        images = self._load(template)
        name = f"base-{key}"
        slot = await self.slots.acquire(name)
        undo.push("release slot", partial(self.slots.release, slot.index, name))
        undo.push("remove cgroup", partial(self.confiner.release, name))
        disk_mb = images.rootfs.stat().st_size // MIB
        request = BootRequest(
            directory=draft,
            shape=shape,
            images=images,
            kernel_args=_kernel_args(self.guest_dns),
            link=slot,
            confinement=self.confiner.confine(
                name, slot.index, shape, file_size_b=file_limit_b(shape, disk_mb, 0)
            ),
        )
        vm = await self.driver.boot(request)
        undo.push("kill vm", vm.kill)
        await fault_point("agent.base.after_spawn")
        await self._warm_up(vm, slot.address, key, images.service)
        await self.driver.save_boot(vm, request)
        await vm.kill()

    def _load(self, template: str) -> Images:
        return load_images(self.images_dir, template, images=self.images)

    async def _warm_up(self, vm: Machine, address: str, key: str, service: Service | None) -> None:
        token = self.tokens.of(key)
        identity = Identity(
            hostname="wrenn", machine_id="0" * 32, envs={}, token=token, former_token=None, lifecycle_id=key
        )
        try:
            await fail_if_vm_exits(vm, initialise(address, identity, timeout_s=self.start_limit_s))
        except WrennError as error:
            error.context.setdefault("console", (await vm.console())[-2000:])
            raise
        guest = GuestConnection(address, token)
        try:
            for command in _WARM_UP:
                with suppress(WrennError):
                    await Commands(guest).run(command, timeout_s=_WARM_UP_TIMEOUT_S)
            if service is not None:
                await fail_if_vm_exits(vm, _start(Commands(guest), service))
        finally:
            await guest.close()
        await asyncio.sleep(_SETTLE_S)


async def _start(commands: Commands, service: Service) -> None:
    """Start a service and wait until its check succeeds.

    Raises:
        AgentFailure: it was not ready in time, or cannot be started.
    """
    start = CommandLine(service.command[0], service.command[1:], user=service.user)
    check = CommandLine(service.ready[0], service.ready[1:], user=service.user)
    await commands.start(start, tag="service")
    try:
        async with asyncio.timeout(_SERVICE_TIMEOUT_S):
            while True:
                if (await commands.run(check, timeout_s=_CHECK_TIMEOUT_S)).exit_code == 0:
                    return
                await asyncio.sleep(_CHECK_EVERY_S)
    except TimeoutError as error:
        raise AgentFailure(
            f"The service of the template was not ready within {_SERVICE_TIMEOUT_S:.0f} s."
        ) from error


def _kernel_args(dns: str) -> str:
    return (
        "console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on net.ifnames=0 "
        f"wrenn.ip=169.254.0.21/30 wrenn.gw=169.254.0.22 wrenn.dns={dns}"
    )
