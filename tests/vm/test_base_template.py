"""The template `base` in a virtual machine: what users of e2b expect of its default template. It is built first if it is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.vm.kit import created, output
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import running_agent
from wrenn.linux.command import run
from wrenn.vm import Shape

pytestmark = pytest.mark.packages

_BUILD_TIMEOUT_S = 1500
_PROGRAMS = ("node", "npm", "python3", "git", "curl", "ss", "pgrep", "tput", "sudo", "bash")


@pytest.mark.timeout(_BUILD_TIMEOUT_S + 300)
async def test_base_has_the_programs_and_the_user_of_e2bs_default_template(
    images_dir: Path, settings: Settings
) -> None:
    await run(
        [sys.executable, "-m", "wrenn.cli.main", "images", "build", "base", "--data-dir", str(images_dir)],
        timeout_s=_BUILD_TIMEOUT_S,
    )
    async with running_agent(settings) as agent:
        spec, sandbox = await created(agent.sandboxes, template="base", shape=Shape(vcpus=1, memory_mb=512))
        missing = f"for name in {' '.join(_PROGRAMS)}; do command -v $name >/dev/null || echo $name; done"
        assert await output(sandbox, missing, user="user") == ""
        said = await output(sandbox, "id -un; pwd; sudo -n id -un; node -p 6*7; git --version", user="user")
        assert said.startswith("user\n/home/user\nroot\n42\ngit version"), said
        await agent.sandboxes.remove(spec.sandbox_id)
