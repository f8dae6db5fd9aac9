"""The life of a sandbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from e2b import AsyncSandbox, NotFoundException, Sandbox, SandboxQuery, SandboxState

TEMPLATE = "minimal"


def create_and_kill() -> None:
    before = datetime.now(UTC)
    sandbox = Sandbox.create(TEMPLATE, timeout=120, metadata={"purpose": "test"}, envs={"A": "1"})
    try:
        info = sandbox.get_info()
        assert info.sandbox_id == sandbox.sandbox_id
        assert info.template_id == TEMPLATE
        assert info.state == SandboxState.RUNNING
        assert info.metadata == {"purpose": "test"}
        assert info.cpu_count >= 1
        assert info.memory_mb >= 128
        assert before - timedelta(seconds=5) < info.started_at < before + timedelta(seconds=30)
        assert timedelta(seconds=60) < info.end_at - info.started_at <= timedelta(seconds=121)
    finally:
        assert sandbox.kill()
    assert not sandbox.kill()
    assert not Sandbox.kill(sandbox.sandbox_id)
    with pytest.raises(NotFoundException):
        sandbox.get_info()


async def create_and_kill_async() -> None:
    sandbox = await AsyncSandbox.create(TEMPLATE, timeout=60)
    info = await sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert await sandbox.kill()
    assert not await sandbox.kill()


def set_timeout() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=300)
    try:
        sandbox.set_timeout(30)
        end = sandbox.get_info().end_at
        assert end < datetime.now(UTC) + timedelta(seconds=31)
        sandbox.set_timeout(600)
        assert sandbox.get_info().end_at > end + timedelta(seconds=300)
    finally:
        sandbox.kill()


def list_by_metadata() -> None:
    odd = "a&b=c d/ü%41+"
    sandbox = Sandbox.create(TEMPLATE, timeout=60, metadata={"odd key": odd, "n": "1"})
    other = Sandbox.create(TEMPLATE, timeout=60, metadata={"n": "1"})
    try:
        found = Sandbox.list(query=SandboxQuery(metadata={"odd key": odd})).next_items()
        assert [each.sandbox_id for each in found] == [sandbox.sandbox_id]
        found = Sandbox.list(query=SandboxQuery(metadata={"n": "1", "odd key": "other"})).next_items()
        assert not found
        found = Sandbox.list(
            query=SandboxQuery(metadata={"n": "1"}, state=[SandboxState.RUNNING])
        ).next_items()
        assert [each.sandbox_id for each in found] == [other.sandbox_id, sandbox.sandbox_id]
        assert not Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items()
    finally:
        sandbox.kill()
        other.kill()


def list_in_pages() -> None:
    made = [Sandbox.create(TEMPLATE, timeout=60, metadata={"pages": "yes"}) for _ in range(3)]
    try:
        pages = Sandbox.list(query=SandboxQuery(metadata={"pages": "yes"}), limit=2)
        first = pages.next_items()
        assert pages.has_next
        second = pages.next_items()
        assert not pages.has_next
        ids = [each.sandbox_id for each in first + second]
        assert ids == [each.sandbox_id for each in reversed(made)]
    finally:
        for each in made:
            each.kill()
