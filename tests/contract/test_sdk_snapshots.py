"""Pause, resume, forks, templates and time limits against a live platform, with either client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sdk_clients import Box, Client

from wrenn import (
    ForbiddenError,
    InvalidRequestError,
    InvalidStateError,
    NameReservedError,
    NameTakenError,
    NotFoundError,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("platform")]


@pytest_asyncio.fixture(loop_scope="module")
async def name(client: Client) -> AsyncIterator[str]:
    """A name that no template has; one that gets it is deleted."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    if name in [template.name for template in await client.templates()]:
        await client.delete_template(name)


async def test_a_paused_sandbox_keeps_files(client: Client, box: Box) -> None:
    await box.write("/tmp/note", "hello")
    await box.pause()
    assert (await box.info()).status == "paused"
    assert not await box.is_running()
    assert [one.status for one in await client.list() if one.id == box.id] == ["paused"]
    await box.resume()
    assert await box.read("/tmp/note") == "hello"


@pytest.mark.needs("keeps_memory")
async def test_a_paused_sandbox_keeps_processes(box: Box) -> None:
    process = await box.start(["sleep", "60"], tag="sleeper")
    await box.pause()
    await box.resume()
    assert await process.is_running()


async def test_a_second_pause_and_a_second_resume_are_refused(box: Box) -> None:
    with pytest.raises(InvalidStateError):
        await box.resume()
    await box.pause()
    with pytest.raises(InvalidStateError) as refused:
        await box.pause()
    assert (refused.value.code, refused.value.status) == ("invalid_state", 409)


async def test_a_call_to_a_paused_sandbox_is_refused_by_its_state(box: Box) -> None:
    await box.pause()
    for call in (box.ping(), box.run("true"), box.read("/etc/hostname")):
        with pytest.raises(InvalidStateError):
            await call


async def test_connecting_resumes_unless_disabled(client: Client, box: Box) -> None:
    await box.pause()
    asleep = await client.connect(box.id, resume=False)
    assert (await asleep.info()).status == "paused"
    awake = await client.connect(box.id)
    assert (await awake.run("echo again")).stdout == "again\n"
    for one in (asleep, awake):
        await one.close()


async def test_many_may_connect_to_a_paused_sandbox_at_once(client: Client, box: Box) -> None:
    await box.pause()
    several = await asyncio.gather(*(client.connect(box.id) for _ in range(5)))
    assert all([await one.is_running() for one in several])
    for one in several:
        await one.close()


async def test_a_call_resumes_a_sandbox_made_for_that(client: Client) -> None:
    box = await client.create(auto_resume=True)
    assert (await box.info()).auto_resume
    await box.pause()
    assert (await box.run("echo awake")).stdout == "awake\n"
    await box.kill()


async def test_a_context_keeps_only_what_was_paused_in_it(client: Client) -> None:
    async with client.context() as kept:
        await kept.pause()
    assert (await kept.info()).status == "paused"
    await kept.kill()
    async with client.context() as resumed:
        await resumed.pause()
        await resumed.resume()
    assert (await resumed.info()).status == "stopped"
    async with client.context() as woken:
        await woken.pause()
        await (await client.connect(woken.id)).close()
    assert (await woken.info()).status == "stopped"
    for one in (kept, resumed, woken):
        await one.close()


async def test_copies_have_the_files_and_then_their_own(box: Box) -> None:
    await box.write("/tmp/note", "before")
    copies = await box.fork(3)
    assert len({box.id, *(copy.id for copy in copies)}) == 4
    await copies[0].write("/tmp/note", "changed")
    assert [await one.read("/tmp/note") for one in (box, *copies)] == [
        "before",
        "changed",
        "before",
        "before",
    ]
    assert await box.is_running()
    for copy in copies:
        await copy.kill()
    assert await box.is_running(), "a copy has connections of its own"


async def test_no_copy_and_no_change_are_refused_here(box: Box) -> None:
    with pytest.raises(InvalidRequestError, match="count"):
        await box.fork(0)
    with pytest.raises(InvalidRequestError, match="timeout_sec"):
        await box.set_timeout()


async def test_sandboxes_start_from_a_snapshot(client: Client, name: str) -> None:
    box = await client.create(memory_mb=256)
    await box.write("/root/installed", "yes")
    template = await box.snapshot(name)
    assert (template.name, template.type, template.memory_mb, template.platform) == (
        name,
        "snapshot",
        256,
        False,
    )
    assert template.size_bytes >= 0
    await box.write("/root/installed", "changed")
    await box.kill()
    for source in (template, name):
        made = await client.create(source)
        assert await made.read("/root/installed") == "yes"
        info = await made.info()
        assert (info.template, info.memory_mb) == (name, 256)
        await made.kill()


async def test_a_paused_sandbox_can_be_a_template_and_stays_paused(client: Client, box: Box) -> None:
    await box.pause()
    template = await box.snapshot()
    assert (await box.info()).status == "paused"
    assert template.name in [one.name for one in await client.templates("snapshot")]
    await client.delete_template(template.name)
    assert template.name not in [one.name for one in await client.templates()]


async def test_a_name_is_taken_until_it_is_overwritten_or_deleted(
    client: Client, box: Box, name: str
) -> None:
    await box.snapshot(name)
    with pytest.raises(NameTakenError):
        await box.snapshot(name)
    await box.write("/tmp/second", "")
    await box.snapshot(name, overwrite=True)
    made = await client.create(name)
    assert await made.exists("/tmp/second")
    await client.delete_template(name)
    assert await made.is_running(), "a sandbox outlives its template"
    await made.kill()
    with pytest.raises(NotFoundError):
        await client.delete_template(name)
    with pytest.raises(NotFoundError):
        await client.create(name)


async def test_the_platforms_templates_are_protected(client: Client, box: Box) -> None:
    with pytest.raises(NameReservedError):
        await box.snapshot("minimal")
    with pytest.raises(ForbiddenError):
        await client.delete_template("minimal")
    with pytest.raises(InvalidRequestError):
        await box.snapshot("../minimal")
    (minimal,) = [one for one in await client.templates("base") if one.name == "minimal"]
    assert (minimal.platform, minimal.vcpus, minimal.memory_mb) == (True, 1, 512)


async def test_time_limits_are_those_that_were_asked_for(client: Client) -> None:
    box = await client.create(timeout_sec=600, lifetime_sec=3600, on_expiry="kill")
    info = await box.info()
    assert (info.timeout_sec, info.on_expiry, info.auto_resume) == (600, "kill", False)
    assert info.expires_at is not None
    assert abs(info.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
    await box.kill()


async def test_a_sandbox_has_no_time_limit_unless_asked_for(box: Box) -> None:
    info = await box.info()
    assert (info.timeout_sec, info.expires_at, info.on_expiry) == (0, None, "pause")


async def test_time_limits_are_changed_one_by_one(box: Box) -> None:
    assert (await box.set_timeout(60)).timeout_sec == 60
    info = await box.set_timeout(lifetime_sec=3600, on_expiry="kill")
    assert (info.timeout_sec, info.on_expiry) == (60, "kill")
    assert info.expires_at is not None
    kept = await box.set_timeout(30, lifetime_sec=60, extend_only=True)
    assert (kept.timeout_sec, kept.expires_at) == (30, info.expires_at)
    sooner = await box.set_timeout(lifetime_sec=60)
    assert sooner.expires_at is not None
    assert sooner.expires_at < info.expires_at
    ended = await box.set_timeout(0, lifetime_sec=0)
    assert (ended.timeout_sec, ended.expires_at) == (0, None)
    assert (await box.set_timeout(lifetime_sec=60, extend_only=True)).expires_at is None
    with pytest.raises(InvalidRequestError):
        await box.set_timeout(-1)
