"""`wrenn build` and `wrenn builds` as a user types them, against a live platform. Costs 37 s on two busy cores."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from wrenn.testing.fork_server import run_program

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("platform")]


async def wrenn(*arguments: str) -> tuple[int, str, str]:
    """Run the command; returns its exit code, output and errors."""
    # A build takes some seconds, and more where other tests run too.
    async with asyncio.timeout(75):
        code, out, err = await run_program("wrenn.cli.main:main", arguments, environment=os.environ)
    return code, out.decode(), err.decode()


async def test_a_dockerfile_is_built_shown_and_used(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("from the context\n")
    (tmp_path / "ignored").write_text("x")
    (tmp_path / ".dockerignore").write_text("ignored\n")
    (tmp_path / "Dockerfile").write_text(
        "FROM template://minimal\n"
        "ARG GREETING\n"
        "ENV GREETING=${GREETING:-none}\n"
        "COPY . /srv-app/\n"
        "VOLUME /data\n"
        "RUN <<E\nset -e\ncat a || cat /srv-app/a\necho $GREETING\nE\n"
        'CMD ["sleep", "1000"]\n'
    )
    code, out, err = await wrenn("build", str(tmp_path), "-t", "app:1", "--build-arg", "GREETING=hello")
    assert (code, out) == (0, "app:1\n"), err
    assert "note: line 5: VOLUME has no effect" in err
    assert "from the context" in err
    _, listing, _ = await wrenn("builds", "list", "--json")
    (listed,) = json.loads(listing)
    assert (listed["status"], listed["name"], listed["tag"]) == ("success", "app", "1")
    assert "RUN <<E" in (await wrenn("builds", "show", listed["id"]))[1]
    assert "from the context" in (await wrenn("builds", "logs", listed["id"]))[1]
    code, out, _ = await wrenn("builds", "logs", listed["id"], "--follow")
    assert (code, out.splitlines()[-1]) == (0, "app:1")
    assert (await wrenn("builds", "cancel", listed["id"]))[0] == 1, "it has ended"
    made = (await wrenn("create", "--template", "app:1"))[1].strip()
    assert (await wrenn("exec", made, "echo $GREETING"))[1] == "hello\n"
    assert (await wrenn("rm", made))[0] == 0


async def test_a_build_that_fails_shows_why(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM template://minimal\nRUN echo reason >&2; exit 3\n")
    code, out, err = await wrenn("build", str(tmp_path), "-t", "bad")
    assert (code, out) == (1, "")
    assert "reason" in err
    assert "exit code 3" in err
    assert (await wrenn("builds", "show", "bld-" + "0" * 25))[0] == 3
