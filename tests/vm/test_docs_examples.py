"""What the README and the guides show is typed as written, on a real platform."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs_examples import Example, examples
from tests.vm.platform import Platform

DOCUMENTED_ENV = "/var/lib/wrenn/env"
TIMEOUT_S = 200
# What `wrenn up` alone can run; `tests/vm/test_up.py` has the platform for it.
NEEDS_UP = {"docs/howto/operate.md"}
# Minutes long under emulation: `test_docs_packages.py`.
NEEDS_PACKAGES = {"docs/howto/docker.md"}
# A registry and an S3 server: `test_docs_images.py`.
NEEDS_REGISTRY = {"docs/howto/import-a-container-image.md", "docs/howto/use-object-storage.md"}
# Several hosts: `tests/fleet/test_images.py`.
NEEDS_HOSTS = {"docs/howto/move-sandboxes.md"}
USUAL = [e for e in examples() if e.page not in NEEDS_UP | NEEDS_PACKAGES | NEEDS_REGISTRY | NEEDS_HOSTS]


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("example", USUAL, ids=lambda e: e.name)
async def test_an_example_runs_as_written(platform: Platform, example: Example, tmp_path: Path) -> None:
    await run(platform, example, tmp_path, TIMEOUT_S)


async def run(
    platform: Platform,
    example: Example,
    tmp_path: Path,
    timeout_s: float,
    replaced: Mapping[str, str] | None = None,
) -> None:
    """Run an example; `replaced`: names that stand for something else here."""
    env_file = platform.data_dir / "env"
    lines = [f"WRENN_BASE_URL={platform.base_url}", f"WRENN_API_KEY={platform.key}"]
    env_file.write_text("\n".join([*lines, "export WRENN_BASE_URL WRENN_API_KEY"]) + "\n")
    env_file.chmod(0o600)
    program = example.program
    for documented, here in {DOCUMENTED_ENV: str(env_file), **(replaced or {})}.items():
        program = program.replace(documented, here)
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
