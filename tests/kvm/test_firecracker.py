"""The client of Firecracker's API on the real Firecracker, under its jailer, in the host machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kvm.host_machine import HostMachine
from wrenn.storage.images.cpio import archive, character_device, directory, regular

pytestmark = pytest.mark.asyncio(loop_scope="session")

_COUNTING = b"""#!/bin/busybox sh
n=0
while true; do n=$((n + 1)); echo "tick $n"; /bin/busybox sleep 0.2; done
"""


async def test_a_jailed_guest_is_saved_and_restored(host_machine: HostMachine) -> None:
    initramfs = archive(
        [
            *(directory(name) for name in ("bin", "dev")),
            character_device("dev/console", 5, 1),
            regular("bin/busybox", Path("/bin/busybox").read_bytes(), permissions=0o755),
            regular("init", _COUNTING, permissions=0o755),
        ]
    )
    figures = await host_machine.call("run_firecracker", initramfs, timeout_s=400)
    print(figures)
    assert figures["diff_s"] < figures["full_s"]
    # What was needed once is filled before it is needed again.
    assert figures["order_faults"] <= figures["uffd_faults"] / 5
