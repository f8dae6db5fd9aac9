"""What the README and the guides show is typed as written, on a real platform."""

from __future__ import annotations

import asyncio
import os
import sys
from ipaddress import ip_address
from pathlib import Path
from socket import AddressFamily, getaddrinfo

import pytest

from tests.docs_examples import Example, examples
from tests.vm.platform import Platform, running_platform

DOCUMENTED_ENV = "/var/lib/wrenn/env"
TIMEOUT_S = 100
PACKAGES_TIMEOUT_S = 1200
# What `wrenn up` alone can run; `tests/vm/test_up.py` has the platform for it.
NEEDS_UP = {"docs/howto/operate.md"}
# Minutes long under emulation.
NEEDS_PACKAGES = {"docs/howto/docker.md"}
USUAL = [e for e in examples() if e.page not in NEEDS_UP | NEEDS_PACKAGES]
WITH_PACKAGES = [e for e in examples() if e.page in NEEDS_PACKAGES]


@pytest.mark.parametrize("example", USUAL, ids=lambda e: e.name)
async def test_an_example_runs_as_written(platform: Platform, example: Example, tmp_path: Path) -> None:
    await run(platform, example, tmp_path, TIMEOUT_S)


@pytest.mark.packages
@pytest.mark.timeout(PACKAGES_TIMEOUT_S + 60)
@pytest.mark.parametrize("example", WITH_PACKAGES, ids=lambda e: e.name)
async def test_an_example_that_installs_packages_runs_as_written(
    data_dir: Path, images_dir: Path, example: Example, tmp_path: Path
) -> None:
    async with running_platform(data_dir, images_dir, private_networks=addresses_of_mirrors()) as platform:
        await run(platform, example, tmp_path, PACKAGES_TIMEOUT_S)


def addresses_of_mirrors() -> str:
    """Of those hosts of Debian's packages whose addresses are not public, and thus closed to sandboxes."""
    hosts = {"deb.debian.org", "security.debian.org"}
    found = {
        ip_address(entry[4][0]) for host in hosts for entry in getaddrinfo(host, 80, AddressFamily.AF_INET)
    }
    return ",".join(str(address) for address in found if not address.is_global)


async def run(platform: Platform, example: Example, tmp_path: Path, timeout_s: float) -> None:
    env_file = platform.data_dir / "env"
    lines = [f"WRENN_BASE_URL={platform.base_url}", f"WRENN_API_KEY={platform.key}"]
    env_file.write_text("\n".join([*lines, "export WRENN_BASE_URL WRENN_API_KEY"]) + "\n")
    env_file.chmod(0o600)
    program = example.program.replace(DOCUMENTED_ENV, str(env_file))
    interpreter = ["bash", "-euo", "pipefail"] if example.language == "sh" else [sys.executable]
    script = tmp_path / "example"
    script.write_text(program)
    process = await asyncio.create_subprocess_exec(
        *interpreter,
        str(script),
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "WRENN_BASE_URL": platform.base_url,
            "WRENN_API_KEY": platform.key,
            "WRENN_DATA_DIR": str(platform.data_dir),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(timeout_s):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")
