"""The unmodified public client does all that it can against a real platform with a real guest."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.platform import Platform

PROGRAM = Path(__file__).with_name("public_client_program.py")
REQUIREMENTS = Path(__file__).with_name("public_client_requirements.txt")
DEADLINE_S = 180
STEPS = (
    "lifecycle", "timeout_zero_and_template", "commands", "background", "stream", "files", "terminal", "git", "ports",
    "snapshots", "asynchronous",
)  # fmt: skip


def find_python() -> str | None:
    """A Python ≥ 3.13, which the public client needs: in PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [found for minor in (13, 14) if (found := shutil.which(f"python3.{minor}"))]
    for candidate in [*named, *(str(path) for path in sorted(pyenv.glob("3.1[34].*/bin/python3")))]:
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="module")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a virtual environment that holds the client from PyPI and nothing of ours."""
    python = find_python()
    if python is None:
        pytest.skip("the public client wrenn==0.1.2 needs Python 3.13, and there is none")
    folder = tmp_path_factory.mktemp("public-client") / "venv"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", python, "--no-python-downloads", folder], check=True)
    target = str(folder / "bin/python")
    subprocess.run([uv, "pip", "install", "--quiet", "--python", target, "-r", REQUIREMENTS], check=True)
    return target


@pytest.mark.timeout(300)
async def test_the_public_client_works_unmodified(
    platform: Platform, client_python: str, subtests: pytest.Subtests
) -> None:
    process = await asyncio.create_subprocess_exec(
        client_python,
        str(PROGRAM),
        env={"PATH": os.environ["PATH"], "WRENN_BASE_URL": platform.base_url, "WRENN_API_KEY": platform.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            written, told = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode(errors="replace")
    results: dict[str, str] = json.loads(written)
    assert sorted(results) == sorted(f"check_{step}" for step in STEPS)
    for name, failure in results.items():
        with subtests.test(name):
            assert not failure, failure
    await platform.settled()
