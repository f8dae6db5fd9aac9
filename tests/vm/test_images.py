"""Images of real disks. Costs a cold boot and some seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.container_images import REGISTRY_PORT
from tests.vm.kit import DEFAULT_SHAPE, created, output
from wrenn.agent.confinement import CgroupConfiner
from wrenn.agent.doctor.leftovers import list_everything
from wrenn.agent.images import ContainerSource, DiskSource
from wrenn.agent.layout import IMAGE_JOB_SLOTS
from wrenn.agent.settings import Settings
from wrenn.agent.storage_report import measure_storage
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.ids import ImageId
from wrenn.base.units import GIB, MIB
from wrenn.guest import settle_disk
from wrenn.linux.cgroups import members
from wrenn.linux.command import run
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.images import ImageFolder
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, FlattenRequest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(240)]


async def test_a_sandbox_of_a_flattened_disk_has_its_files_and_real_free_space(
    agent: Agent, settings: Settings
) -> None:
    spec, sandbox = await created(agent.sandboxes, disk_mb=6 * 1024)
    await output(sandbox, "dd if=/dev/urandom of=/root/gone bs=1M count=64 status=none; sync")
    await output(sandbox, "echo built >/root/file; chown 1234:5678 /root/file; rm /root/gone; rm /etc/motd")
    free = int((await output(sandbox, "stat -f -c %f /")).strip())
    await settle_disk(sandbox.guest, timeout_s=60)
    await agent.sandboxes.pause(spec.sandbox_id)
    image_id = ImageId.new()
    status = await agent.images.ensure(image_id, DiskSource(spec.sandbox_id), wait_s=60)
    assert status.ready is not None, status.failure
    assert status.ready.size_b == 6 * GIB
    assert status.ready.allocated_b < 500 * MIB, "what was deleted and trimmed is a hole"
    assert not [one for one in await list_everything(agent.layout) if str(image_id) in one.name]
    (use,) = [use for use in measure_storage(settings).usages if use.name == str(image_id)]
    assert (use.kind, use.own_b) == ("image", status.ready.allocated_b)
    await agent.sandboxes.remove(spec.sandbox_id)

    spec, sandbox = await created(agent.sandboxes, template=str(image_id))
    assert (
        await output(
            sandbox, "cat /root/file; stat -c %u:%g /root/file; ls /etc/motd /root/gone 2>/dev/null || true"
        )
        == "built\n1234:5678\n"
    )
    assert abs(int((await output(sandbox, "stat -f -c %f /")).strip()) - free) < free // 100
    await agent.images.remove(image_id)
    await output(
        sandbox,
        "echo more >>/root/file; sync; echo 3 >/proc/sys/vm/drop_caches; md5sum /usr/bin/* >/dev/null",
    )
    await agent.sandboxes.remove(spec.sandbox_id)


async def test_a_container_image_without_init_system_boots(settings: Settings, served: str) -> None:
    """It has neither `/etc/passwd` nor Python nor systemd. Costs a cold boot."""
    settings = replace(settings, private_networks=f"{served}/32")
    async with running_agent(settings) as agent:
        image_id = ImageId.new()
        source = ContainerSource(f"{served}:{REGISTRY_PORT}/tiny:1", 256, insecure_registry=True)
        status = await agent.images.ensure(image_id, source, wait_s=100)
        assert status.ready is not None, status.failure
        spec, sandbox = await created(agent.sandboxes, template=str(image_id))
        assert await output(sandbox, "echo works >/file; cat /file; id -u") == "works\n0\n"
        await agent.sandboxes.remove(spec.sandbox_id)
        await agent.images.remove(image_id)
        assert not [one for one in await list_everything(agent.layout) if str(image_id) in one.name]


async def test_a_layer_that_names_files_of_the_host_gets_none_of_them(agent: Agent, tmp_path: Path) -> None:
    """As a VMM may write it that a guest has taken over."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"kept-from-guests" * 1000)
    secret.chmod(0o644)
    layers = agent.layout.layers
    (base,) = [path.name for path in agent.layout.bases.iterdir() if path.name[0] != "."][:1]
    folder = ImageFolder(agent.layout.images)
    confiner = CgroupConfiner(agent.layout)
    for options in (f"data_file={secret},data_file_raw=on", f"backing_file={secret},backing_fmt=raw"):
        layer, image_id = new_layer_id(), ImageId.new()
        path = layers / f"{layer}.qcow2"
        await run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), "64M"], timeout_s=20)
        draft = await folder.new_draft(image_id)
        confinement = confiner.confine("image-test", IMAGE_JOB_SLOTS[0], DEFAULT_SHAPE, file_size_b=GIB)
        request = FlattenRequest(
            DiskRef((layer,), base), 64 * MIB, draft / "rootfs.ext4", confinement, lambda _done, _total: None
        )
        try:
            if "data_file" in options:
                with pytest.raises(DamagedSnapshot):
                    await agent.parts.driver.flatten(request)
            else:
                await agent.parts.driver.flatten(request)
            assert b"kept-from-guests" not in (draft / "rootfs.ext4").read_bytes()
        finally:
            assert members(agent.layout.cgroup("image-test")) == []
            await confiner.release("image-test")
            await folder.sweep()
            path.unlink()
