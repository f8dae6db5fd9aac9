"""A template with a service, which is up in every sandbox from the beginning; and how such a service knows the sandbox's variables."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.kit import created, output
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import running_agent

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(240)]

_SERVICE = {
    # Its pid, and what it finds when it is asked: it was started before any sandbox existed.
    "command": [
        "/bin/sh",
        "-c",
        "while sleep 0.1; do cat /run/wrenn/environment.json > /tmp/seen; echo $$ > /tmp/pid; done",
    ],
    "user": "user",
    "ready": ["/usr/bin/test", "-e", "/tmp/pid"],
}


def _with_service(folder: Path, images_dir: Path) -> None:
    """Make a folder with the images, and a template `served` beside `minimal` that has the service."""
    for name in ("kernels", "initramfs"):
        (folder / name).symlink_to(images_dir / name)
    for name in ("minimal", "served"):
        (folder / "templates" / name).mkdir(parents=True)
        (folder / "templates" / name / "rootfs.ext4").symlink_to(images_dir / "templates/minimal/rootfs.ext4")
    manifest = json.loads((images_dir / "templates/minimal/manifest.json").read_text())
    (folder / "templates/minimal/manifest.json").write_text(json.dumps(manifest))
    manifest |= {"name": "served", "service": _SERVICE}
    (folder / "templates/served/manifest.json").write_text(json.dumps(manifest))


async def test_a_service_is_up_from_the_beginning_and_learns_the_variables_of_its_sandbox(
    settings: Settings, images_dir: Path, tmp_path: Path
) -> None:
    _with_service(tmp_path, images_dir)
    pids = set[str]()
    async with running_agent(replace(settings, images_dir=tmp_path)) as agent:
        for value in ("one", "two"):
            spec, sandbox = await created(agent.sandboxes, template="served", envs={"WHICH": value})
            wait = f"until grep -q {value} /tmp/seen; do sleep 0.1; done; cat /tmp/pid"
            pids.add(await output(sandbox, wait, user="user"))
            found = json.loads(await output(sandbox, "cat /run/wrenn/environment.json", user="user"))
            assert found["WHICH"] == value
            assert found["WRENN_SANDBOX_ID"] == str(spec.sandbox_id)
            # Processes of the default user have these variables anyway; nobody else but root may read them.
            assert await output(sandbox, "stat -c '%a %U' /run/wrenn/environment.json") == "400 user\n"
            assert "denied" in await output(
                sandbox, "su nobody -s /bin/sh -c 'cat /run/wrenn/environment.json' 2>&1 || true"
            )
            await agent.sandboxes.remove(spec.sandbox_id)
    assert len(pids) == 1, "it was started once, and both sandboxes have a copy"
    shutil.rmtree(tmp_path / "templates")
