"""What is written into a VMM's cgroup, on v1 and on v2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wrenn.base.units import MIB
from wrenn.linux.cgroups import Limits, disk_of, plan_settings

LIMITS = Limits(memory_b=512 * MIB, cpus=1.5, pids=64, io_b_per_s=100 * MIB, io_device="8:16")


def written(limits: Limits, *, v2: bool) -> dict[str, str]:
    return {setting.file: setting.value for setting in plan_settings(limits, v2=v2)}


def test_v2() -> None:
    assert written(LIMITS, v2=True) == {
        "memory.max": "536870912",
        "cpu.max": "150000 100000",
        "pids.max": "64",
        "cpu.weight": "100",
        "io.weight": "default 100",
        "io.max": "8:16 rbps=104857600 wbps=104857600",
    }


def test_v1() -> None:
    assert written(LIMITS, v2=False) == {
        "memory.limit_in_bytes": "536870912",
        "cpu.cfs_quota_us": "150000",
        "pids.max": "64",
        "cpu.shares": "1024",
        "blkio.bfq.weight": "100",
        "blkio.throttle.read_bps_device": "8:16 104857600",
        "blkio.throttle.write_bps_device": "8:16 104857600",
    }


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("limits", [replace(LIMITS, io_b_per_s=0), replace(LIMITS, io_device="")])
def test_without_a_rate_or_a_disk_io_is_not_limited(limits: Limits, *, v2: bool) -> None:
    assert not [file for file in written(limits, v2=v2) if "throttle" in file or file == "io.max"]


@pytest.mark.parametrize("v2", [True, False])
def test_only_memory_cpu_time_and_processes_are_needed(*, v2: bool) -> None:
    needed = {setting.controller for setting in plan_settings(LIMITS, v2=v2) if setting.is_needed}
    assert needed == {"memory", "cpu", "pids"}


def test_a_folder_that_is_on_no_disk_has_none() -> None:
    assert disk_of(Path("/proc")) == ""
