"""The choice of the accelerator on a host where KVM works, or is prevented from working."""

from __future__ import annotations

import pytest

from tests.kvm.host_machine import HostMachine

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def why(machine: HostMachine, cpu_model: str) -> str:
    """Why KVM is not used there; empty if it is."""
    return await machine.call("why_no_kvm", cpu_model, timeout_s=150)


async def test_a_model_that_the_processor_has_is_used(host_machine: HostMachine) -> None:
    assert await why(host_machine, "qemu64") == ""


async def test_a_feature_that_the_processor_lacks_is_named(host_machine: HostMachine) -> None:
    """The host machine's processor has no AVX2."""
    reason = await why(host_machine, "Haswell-noTSX")
    assert reason.startswith("the processor lacks ")
    assert "avx2" in reason


async def test_a_model_that_does_not_exist_is_refused_with_the_words_of_qemu(
    host_machine: HostMachine,
) -> None:
    reason = await why(host_machine, "no-such-model")
    assert reason.startswith("QEMU failed with KVM: ")
    assert "no-such-model" in reason


async def test_a_device_that_only_root_may_open_is_reported_with_the_command_that_helps(
    host_machine: HostMachine,
) -> None:
    await host_machine.shell("chmod 600 /dev/kvm")
    try:
        assert "chmod 660 /dev/kvm" in await why(host_machine, "host")
    finally:
        await host_machine.shell("chmod 660 /dev/kvm")


async def test_a_device_that_is_missing_is_reported_with_its_module(host_machine: HostMachine) -> None:
    await host_machine.shell("mv /dev/kvm /dev/kvm-away")
    try:
        assert "modprobe kvm_amd" in await why(host_machine, "host")
    finally:
        await host_machine.shell("mv /dev/kvm-away /dev/kvm")
