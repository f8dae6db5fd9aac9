"""The host machine of a run, restored from a state in which its drivers have their bases; that state is built if it is missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kvm.cache import built, digest_of, locked
from tests.kvm.host_machine import HostMachine, boot, restore
from tests.kvm.images import host_images
from tests.kvm.remote_adapter import remote_adapter
from tests.kvm.sources import sources_archive

DRIVERS: dict[str, dict[str, str]] = {
    "firecracker-kvm": {"WRENN_VMM": "firecracker", "WRENN_FIRECRACKER_DIR": "/data/firecracker"},
    "qemu-kvm": {"WRENN_VMM": "qemu"},
}
"""Drivers of the host machine, with the settings that differ from the default."""

_AGENT_TIMEOUT_S = 200.0


@asynccontextmanager
async def running_host_machine() -> AsyncGenerator[HostMachine]:
    """A running machine, the only one of this computer. What is missing is built first: minutes, once for these sources."""
    images_dir = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    cache = images_dir / "test-host"
    folder = Path(tempfile.mkdtemp(prefix="wrenn-kvm-"))
    try:
        async with locked(cache):
            images = await host_images(cache, images_dir)
            sources = await sources_archive(cache)
            key = digest_of([images.digest, sources.parent.name, repr(DRIVERS)])

            async def make_saved_state(into: Path) -> None:
                machine = await boot(into, images, sources)
                try:
                    for name, environment in DRIVERS.items():
                        await remote_adapter(machine, name, environment)
                        await machine.call("prepare_agent", name, environment, timeout_s=_AGENT_TIMEOUT_S)
                    await machine.save()
                finally:
                    machine.kill()

            saved = await built(cache, "state", key, make_saved_state)
            machine = await restore(folder, saved, sources)
            try:
                yield machine
            finally:
                machine.kill()
    finally:
        shutil.rmtree(folder)
