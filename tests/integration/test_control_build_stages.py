"""Builds of Dockerfiles with several stages, over the real control plane, the real agent and the simulated driver. Costs about 40 s."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import DEADLINE_S, Platform
from .test_control_build_layers import cached, output
from .test_control_builds import ended

pytestmark = pytest.mark.asyncio(loop_scope="module")

_TWO = """\
FROM template://minimal AS built
WORKDIR /srv-out
RUN cat /proc/sys/kernel/random/uuid > one && chown 4242:4343 one && chmod 640 one && ln -s one link
RUN mkdir -p deep/er && echo two > deep/er/two.txt && echo three > deep/three.txt
FROM template://minimal
RUN mkdir /srv-there
COPY --from=built /srv-out /srv-tree
COPY --from=built /srv-out/link /srv-file
COPY --from=built /srv-out/deep/er/*.txt /srv-out/d*/th?ee.txt /srv-there/
COPY --from=built --chown=7:8 --chmod=700 /srv-out/one /srv-owned/
RUN sleep 1.1
RUN {last}
"""


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


async def built(platform: Platform, dockerfile: str, **body: object) -> dict[str, Any]:
    fields = {"name": "own", "dockerfile": dockerfile, **body}
    answer = await platform.api.post("/v1/builds", json=fields)
    assert answer.status_code == 201, answer.text
    return await ended(platform, answer.json()["id"])


async def sandboxes(platform: Platform) -> list[dict[str, Any]]:
    return [each for each in (await platform.api.get("/v1/sandboxes")).json() if each["build_id"]]


async def test_files_of_a_stage_are_in_the_result_and_the_stage_runs_again_only_if_it_changed(
    platform: Platform,
):
    first = await built(platform, _TWO.format(last="true"))
    assert first["status"] == "success", first["error"]
    assert first["total_steps"] == first["current_step"] == 10
    steps = (await platform.api.get(f"/v1/builds/{first['id']}/logs")).json()
    assert [step["step"] for step in steps] == list(range(1, 11))
    assert [step["cmd"].startswith("[built] ") for step in steps] == [True] * 3 + [False] * 7
    assert await output(
        platform,
        "cd /srv-tree && find . | sort && stat -c '%u:%g %a' one /srv-file /srv-owned/one && cat /srv-there/* && "
        "cmp one /srv-file && cmp one /srv-owned/one && test ! -e /srv-out && test ! -L /srv-file && echo same",
    ) == (
        ".\n./deep\n./deep/er\n./deep/er/two.txt\n./deep/three.txt\n./link\n./one\n"
        "4242:4343 640\n4242:4343 640\n7:8 700\nthree\ntwo\nsame\n"
    )
    assert await cached(platform, first) == [False] * 10
    was = await output(platform, "cat /srv-file")
    again = await built(platform, _TWO.format(last="true"))
    assert await cached(platform, again) == [True] * 10
    # Another last step: what it begins with has the files of the stage already.
    changed = await built(platform, _TWO.format(last="echo changed > /srv-changed"))
    assert await cached(platform, changed) == [True] * 9 + [False]
    assert await output(platform, "cat /srv-file") == was
    # The stage is taken from its last layer when another step copies of it.
    other = await built(platform, _TWO.format(last="true").replace("/srv-tree", "/srv-tree-2"))
    assert await cached(platform, other) == [True] * 3 + [False] * 7
    assert await output(platform, "cat /srv-file") == was
    # A stage that changes changes what is copied of it.
    stage = await built(platform, _TWO.format(last="true").replace("echo two", "echo zwei"))
    assert await cached(platform, stage) == [False] * 10
    assert await output(platform, "cat /srv-tree/deep/er/two.txt") == "zwei\n"


async def test_stages_are_on_one_another(platform: Platform):
    text = """\
FROM template://minimal AS base
RUN echo base > /srv-base
CMD ["nobody", "starts", "this"]
FROM base AS one
RUN echo one > /srv-one
FROM base AS two
COPY --from=one /srv-one /srv-one
RUN cat /srv-base /srv-one > /srv-two
FROM base
COPY --from=two /srv-two /srv-result
COPY --from=template://minimal /etc/passwd /srv-passwd
ENTRYPOINT []
"""
    made = await built(platform, text)
    assert made["status"] == "success", made["error"]
    assert (
        await output(platform, "cat /srv-result && test ! -e /srv-one && test -e /srv-passwd")
        == "base\none\n"
    )
    no_cache = await built(platform, text, no_cache=True)
    assert no_cache["status"] == "success", no_cache
    assert not any(await cached(platform, no_cache))


async def test_a_stage_that_fails_fails_the_build_and_leaves_no_sandbox(platform: Platform):
    failed = await built(
        platform, "FROM template://minimal AS a\nRUN exit 3\nFROM template://minimal\nCOPY --from=a /b /b"
    )
    assert (failed["status"], failed["error"]) == (
        "failed", "line 2: recipe step 1 failed: It ended with exit code 3.",
    )  # fmt: skip
    missing = await built(
        platform, "FROM template://minimal AS a\nRUN true\nFROM template://minimal\nCOPY --from=a /none /b"
    )
    assert (missing["status"], missing["error"]) == (
        "failed", "line 4: recipe step 1 failed: The stage has no '/none'.",
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        while await sandboxes(platform):
            await asyncio.sleep(0.1)
