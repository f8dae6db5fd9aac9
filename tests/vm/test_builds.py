"""Builds of real VMs: from `minimal` and from a container image of a real registry. Costs four cold boots, about 70 s."""

from __future__ import annotations

import asyncio
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.container_images import REGISTRY_PORT, Layer, write_layout
from tests.vm.platform import Platform, running_platform

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(400)]

_DEADLINE_S = 150.0


async def build(api: httpx2.AsyncClient, name: str, dockerfile: str) -> dict[str, Any]:
    answer = await api.post("/v1/builds", json={"name": name, "dockerfile": dockerfile, "memory_mb": 256})
    assert answer.status_code == 201, answer.text
    path = f"/v1/builds/{answer.json()['id']}"
    async with asyncio.timeout(_DEADLINE_S):
        while (found := (await api.get(path)).json())["status"] in ("pending", "running"):
            await asyncio.sleep(0.3)
    steps = (await api.get(f"{path}/logs")).json()
    assert found["status"] == "success", (found, steps)
    return found


async def output(api: httpx2.AsyncClient, template: str, script: str) -> str:
    """Create a sandbox, run a script in it, and remove it."""
    made = await api.post("/v1/sandboxes", json={"template": template})
    assert made.status_code == 201, made.text
    path = f"/v1/sandboxes/{made.json()['id']}"
    try:
        ran = await api.post(f"{path}/exec", json={"cmd": "/bin/sh", "args": ["-c", script]})
        assert ran.status_code == 200, ran.text
        return ran.json()["stdout"]
    finally:
        assert (await api.delete(path)).status_code == 204


async def wrenn(platform: Platform, *arguments: str) -> str:
    """Run the command and return its standard output."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("wrenn")),
        *arguments,
        env={
            "PATH": os.environ["PATH"],
            "WRENN_BASE_URL": platform.base_url,
            "WRENN_API_KEY": platform.key,
            "TERM": "dumb",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(_DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_dockerfiles_become_templates(data_dir: Path, images_dir: Path, served: str) -> None:
    registry = f"{served}:{REGISTRY_PORT}"
    async with (
        running_platform(
            data_dir,
            images_dir,
            private_networks=f"{served}/32",
            insecure_registries=registry,
            armable=True,
        ) as platform,
        platform.client() as api,
    ):
        await build(
            api,
            "image",
            "FROM template://minimal\nENV GREETING=hello\nRUN echo $GREETING > /etc/greeting && rm /etc/motd\n",
        )
        assert (await output(api, "image", "cat /etc/greeting; echo $GREETING $WRENN_TEMPLATE")).split() == [
            "hello", "hello", "image",
        ]  # fmt: skip
        # A step more: the others are taken from the cache, with the machine in which they ran.
        longer = await build(
            api,
            "longer",
            "FROM template://minimal\nENV GREETING=hello\nRUN echo $GREETING > /etc/greeting && rm /etc/motd\n"
            "RUN cat /etc/greeting > /etc/again\n",
        )
        steps = (await api.get(f"/v1/builds/{longer['id']}/logs")).json()
        assert [step["cached"] for step in steps] == [True, True, False]
        assert await output(api, "longer", "cat /etc/again; test ! -e /etc/motd") == "hello\n"
        # A container image without init system, users or Python; what it starts is in the template's memory.
        await build(
            api,
            "tiny",
            f"FROM {registry}/tiny:1\nRUN echo built > /file\nCMD while true; do date > /beat; sleep 1; done\n",
        )
        assert (await api.get("/v1/templates/tiny")).json()["type"] == "snapshot"
        assert (await output(api, "tiny", "cat /file; rm -f /beat; sleep 3; cat /beat | wc -l")).split() == [
            "built", "1",
        ]  # fmt: skip
        arguments = ("templates", "import", f"{registry}/tiny:1", "-t", "plain:1")
        imported = await wrenn(platform, *arguments)
        assert imported == "plain:1\n"
        assert await output(api, "plain:1", "ls /bin") == "busybox\ncat\nid\nsh\n"
        # Nothing runs in it, so it needs no sandbox. The same image again takes what is there.
        (earlier,) = [each for each in (await api.get("/v1/builds")).json() if each["name"] == "plain"]
        assert "sandbox_id" not in earlier
        stored = objects(data_dir)
        assert (
            await wrenn(platform, "templates", "import", f"{registry}/tiny:1", "-t", "plain:2") == "plain:2\n"
        )
        assert objects(data_dir) == stored
        await _killed_while_imported(platform, data_dir, f"{registry}/tiny:1")
        # The same from a local file, which goes through the store.
        files = Layer().folder("bin").add("bin/busybox", Path("/usr/bin/busybox").read_bytes(), mode=0o755)
        files.add("bin/sh", kind=tarfile.SYMTYPE, target="busybox")
        write_layout(data_dir / "layout", [files.done()], {"Env": ["A=local"]})
        imported = await wrenn(platform, "templates", "import", f"oci:{data_dir / 'layout'}", "-t", "local")
        assert imported == "local\n"
        assert await output(api, "local", "echo $A; /bin/busybox ls /bin") == "local\nbusybox\nsh\n"
        assert not list((data_dir / "store").rglob("uploads/*"))
        listed = (await api.get("/v1/sandboxes")).json()
        assert [each["name"] for each in listed] == []
        for name in ("image", "longer", "tiny", "plain", "killed", "local"):
            assert (await api.delete(f"/v1/templates/{name}")).status_code == 204
        # Their files go with them, on the host too, but for the layers of the three builds and the image that one of them lies on.
        async with asyncio.timeout(_DEADLINE_S):
            while (
                len(list((data_dir / "images").iterdir())) != 1
                or len(list((data_dir / "snapshots").iterdir())) != 3
            ):
                await asyncio.sleep(0.3)


async def test_steps_that_take_all_there_is_end_their_builds_and_leave_nothing(
    data_dir: Path, images_dir: Path
) -> None:
    """One fills the disk, one forks without end: both end by themselves or by their time limit, and the host goes on."""
    forks = "RUN --timeout=5s sh -c 'forever() { forever | forever & sleep 1; }; while :; do forever; done'"
    async with running_platform(data_dir, images_dir) as platform, platform.client() as api:
        for name, step, reason in (
            ("full", "RUN fallocate -l 4G /a; fallocate -l 4G /b; cat /dev/zero > /c", "exit code 1"),
            ("forks", forks, "failed"),
        ):
            body = {"name": name, "recipe": [step], "memory_mb": 256, "skip_pre_post": True}
            answer = await api.post("/v1/builds", json=body)
            assert answer.status_code == 201, answer.text
            path = f"/v1/builds/{answer.json()['id']}"
            async with asyncio.timeout(_DEADLINE_S):
                while (found := (await api.get(path)).json())["status"] in ("pending", "running"):
                    await asyncio.sleep(0.3)
            assert found["status"] == "failed", found
            assert reason in found["error"]
            assert (await api.get(f"/v1/templates/{name}")).status_code == 404
        made = await api.post("/v1/sandboxes", json={"memory_mb": 256})
        assert made.status_code == 201, made.text
        await platform.remove_sandboxes()
        await platform.settled()


def objects(data_dir: Path) -> set[Path]:
    """The objects in the store."""
    return {path for path in (data_dir / "store").rglob("*") if path.is_file()}


async def _killed_while_imported(platform: Platform, data_dir: Path, reference: str) -> None:
    """Kill -9 the control plane when the image is in the store and not published: the next attempt finishes the import."""
    # A disk of another size, or what an earlier build made would be taken.
    body = {"name": "killed", "dockerfile": f"FROM {reference}\n", "disk_size_mb": 6144}
    before = len(_manifests(data_dir))
    platform.arm("control", "control.build.after_upload=kill")
    async with platform.client() as api:
        build_id = (await api.post("/v1/builds", json=body)).json()["id"]
        await platform.wait_killed("control")
    platform.start("control")
    await platform.wait_ready()
    async with platform.client() as api:
        async with asyncio.timeout(_DEADLINE_S):
            while (found := (await api.get(f"/v1/builds/{build_id}")).json())["status"] != "success":
                assert found["status"] in ("pending", "running"), found
                await asyncio.sleep(0.3)
        assert await output(api, "killed", "ls /bin") == "busybox\ncat\nid\nsh\n"
        # What the killed attempt had brought into the store is removed.
        async with asyncio.timeout(_DEADLINE_S):
            while len(_manifests(data_dir)) > before + 1:
                await asyncio.sleep(0.3)
        assert len(_manifests(data_dir)) == before + 1


def _manifests(data_dir: Path) -> set[Path]:
    return {path for path in objects(data_dir) if path.suffix == ".json"}
