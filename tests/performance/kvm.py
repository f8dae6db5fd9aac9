"""Virtual machines with KVM, in the emulated host of tests/kvm: only ratios and counts mean anything, as everything there is slow."""

from __future__ import annotations

import json
from typing import Any

from tests.kvm.checkout import run_python, send_checkout
from tests.kvm.host_machine import HostMachine
from tests.kvm.running_machine import DRIVERS, running_host_machine
from tests.performance.figures import Figure

RATIO = 1.5
PAGES_RATIO = 1.1
FEWER_FAULTS = 0.2
VMM_LIMIT_MB = 8
PAGER_LIMIT_MB = 3
_TIMEOUT_S = 800.0
_RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "Firecracker, memory file": ("firecracker-kvm", {"WRENN_FIRECRACKER_MEMORY": "file"}),
    "Firecracker, page-fault server": ("firecracker-kvm", {"WRENN_FIRECRACKER_MEMORY": "uffd"}),
}


async def kvm(rounds: int) -> list[Figure]:
    """Figures of Firecracker's VMs. The number of rounds is fixed: one takes seconds."""
    del rounds
    figures: list[Figure] = []
    async with running_host_machine() as machine:
        await send_checkout(machine)
        for name, (driver, settings) in _RUNS.items():
            figures += _figures(name, await _measured(machine, driver, settings))
    return figures


async def _measured(machine: HostMachine, driver: str, settings: dict[str, str]) -> dict[str, Any]:
    environment = {
        **DRIVERS[driver],
        **settings,
        "WRENN_DATA_DIR": f"/data/measured-{driver}",
        "WRENN_BASES_OF": f"/data/{driver}",
        "WRENN_READY_SLOTS": "2",
        "WRENN_SAMPLE_INTERVAL_S": "0",
    }
    code, output = await run_python(
        machine, "-m tests.kvm.figures_program", environment, timeout_s=_TIMEOUT_S
    )
    assert code == 0, output
    return json.loads(output.splitlines()[-1])


def _figures(name: str, measured: dict[str, Any]) -> list[Figure]:
    ratio = measured["create_ms"] / measured["bare_ms"]
    figures = [
        Figure(
            f"create → envd answers, {name}",
            f"{measured['bare_ms']:.0f} ms (bare restore by hand → `/health`)",
            f"{measured['create_ms']:.0f} ms",
            f"{ratio:.2f}",
            f"≤ {RATIO}",
            ratio <= RATIO,
        )
    ]
    if waited := measured["waited"]:
        first, later = waited[0], max(waited[1:])
        share = later / first
        figures.append(
            Figure(
                "page faults that a guest waits for until it answers, with the recorded order",
                f"{first} (without an order; 16 pages each)",
                f"{later} (most of {len(waited) - 1})",
                f"{share:.2f}",
                f"≤ {FEWER_FAULTS}",
                share <= FEWER_FAULTS,
            )
        )
    if "pages_dirtied" in measured:
        written = measured["pages_written"] + measured["pages_now_zero"]
        share = written / measured["pages_dirtied"]
        figures.append(
            Figure(
                f"pause of an idle VM: pages written, {name}",
                f"{measured['pages_dirtied']} pages dirtied",
                f"{measured['pages_written']} pages of data, {measured['pages_now_zero']} marked as zero",
                f"{share:.2f}",
                f"≤ {PAGES_RATIO}",
                share <= PAGES_RATIO,
            )
        )
        vmm_mb = measured["vmm_kb"] / 1024
        figures.append(
            Figure(
                f"memory of the monitor beside the guest's, {name}",
                "–", f"{vmm_mb:.1f} MB", "–", f"≤ {VMM_LIMIT_MB} MB", vmm_mb <= VMM_LIMIT_MB,
            )
        )  # fmt: skip
    if "pager_kb" in measured:
        pager_mb = measured["pager_kb"] / 1024
        figures.append(
            Figure(
                "memory of the page-fault server beside the shared image",
                "–", f"{pager_mb:.1f} MB", "–", f"≤ {PAGER_LIMIT_MB} MB", pager_mb <= PAGER_LIMIT_MB,
            )
        )  # fmt: skip
    return figures
