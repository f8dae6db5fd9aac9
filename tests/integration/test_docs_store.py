"""What the guide on object storage says of encryption, as written, on a platform over simulated machines. Costs about 10 s."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.docs_examples import section
from wrenn.testing.agent_host import AgentHost

from .conftest import environment_of, make_team
from .test_control_build_crash import succeeded
from .test_control_crash import Crashing

PAGE = "docs/howto/use-object-storage.md"
HEADING = "Encrypt the store"
SEALED = b"wrenn sealed\0"
_DEADLINE_S = 30.0


async def run(program: str, folder: Path, **environment: str) -> str:
    """Run a block with another folder for settings; returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        program.replace("/etc/wrenn", str(folder)),
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_DEADLINE_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_store_is_encrypted_and_its_key_changed_as_written(
    data_dir: Path, database_url: str, host: AgentHost, unused_tcp_port: int, tmp_path: Path
) -> None:
    make_key, list_keys = (example.program for example in section(PAGE, HEADING))
    key = await make_team(database_url, "ada")
    etc = tmp_path / "etc"
    etc.mkdir()
    await run(make_key, etc)
    assert (etc / "store.key").stat().st_mode & 0o077 == 0
    settings = dict(line.split("=", 1) for line in (etc / "control.env").read_text().splitlines())
    environment = {**environment_of(data_dir, database_url), **settings}
    ids: list[str] = []
    for name in ("first", "second"):
        async with Crashing(environment, unused_tcp_port, key, host).started() as (api, _):
            body = {"name": name, "recipe": [f"RUN echo {name} > /made"], "skip_pre_post": True}
            await succeeded(api, (await api.post("/v1/builds", json=body)).json()["id"])
        rows = (await run(list_keys, etc, DATABASE_URL=database_url)).splitlines()
        found = {row.split("|")[0].strip(): int(row.split("|")[1]) for row in rows[2:] if "|" in row}
        assert set(ids) < set(found), "the images of the former key are listed too"
        (new,) = set(found) - set(ids)
        assert found[new] == 1
        ids.append(new)
        # The new key on the first line, the old one below it.
        former = (etc / "store.key").read_text()
        (etc / "control.env").unlink()
        await run(make_key, etc)
        (etc / "store.key").write_text((etc / "store.key").read_text() + former)
    chunks = [path for path in (data_dir / "store").glob("*/chunks-*/*/*") if path.is_file()]
    assert chunks
    assert all(path.read_bytes().startswith(SEALED) for path in chunks)


@pytest.fixture(autouse=True)
def _needs_programs() -> None:
    for program in ("openssl", "psql"):
        if not any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(":")):
            pytest.skip(f"the guide needs {program}")
