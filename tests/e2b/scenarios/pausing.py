"""Pause, resume, connect, fork, snapshots: what outlives a sandbox's run."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from e2b import AsyncSandbox, NotFoundException, Sandbox, SandboxException, SandboxQuery, SandboxState

TEMPLATE = "minimal"


def pause_and_connect() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=120)
    try:
        assert sandbox.pause()
        info = sandbox.get_info()
        assert info.state == SandboxState.PAUSED
        assert info.end_at <= datetime.now(UTC) + timedelta(seconds=5)
        # A second pause says that there was nothing to do.
        assert sandbox.pause() is False
        paused = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items()
        assert sandbox.sandbox_id in [each.sandbox_id for each in paused]
        again = Sandbox.connect(sandbox.sandbox_id, timeout=300)
        assert again.sandbox_id == sandbox.sandbox_id
        info = again.get_info()
        assert info.state == SandboxState.RUNNING
        assert timedelta(seconds=250) < info.end_at - datetime.now(UTC) <= timedelta(seconds=301)
    finally:
        sandbox.kill()


def pause_without_memory() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=120)
    copy = None
    try:
        sandbox.commands.run("echo on disk > /root/kept", user="root")
        assert sandbox.pause(keep_memory=False)
        assert sandbox.pause(keep_memory=False) is False
        sandbox.connect(timeout=120)
        assert sandbox.files.read("/root/kept", user="root") == "on disk\n"
        sandbox.pause()
        # As `on_resume="reboot"` of newer releases.
        sandbox.connect(timeout=120)
        snapshot = sandbox.create_snapshot()
        copy = Sandbox.create(snapshot.snapshot_id, timeout=60)
        assert copy.files.read("/root/kept", user="root") == "on disk\n"
        assert Sandbox.delete_snapshot(snapshot.snapshot_id)
    finally:
        sandbox.kill()
        if copy is not None:
            copy.kill()


def pause_at_the_end_without_memory() -> None:
    sandbox = Sandbox.create(
        TEMPLATE, timeout=2, lifecycle={"on_timeout": {"action": "pause", "keep_memory": False}}
    )
    try:
        sandbox.commands.run("echo on disk > /root/kept", user="root")
        _wait_for(sandbox, SandboxState.PAUSED)
        sandbox.connect(timeout=60)
        assert sandbox.files.read("/root/kept", user="root") == "on disk\n"
    finally:
        sandbox.kill()


def connect_never_shortens() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=600)
    try:
        end = sandbox.get_info().end_at
        sandbox.connect(timeout=10)
        assert sandbox.get_info().end_at == end
        sandbox.connect(timeout=1200)
        assert sandbox.get_info().end_at > end
    finally:
        sandbox.kill()


def kill_a_paused_sandbox() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=60)
    sandbox.pause()
    assert Sandbox.kill(sandbox.sandbox_id)
    with pytest.raises(NotFoundException):
        Sandbox.connect(sandbox.sandbox_id)


def a_paused_sandbox_outlives_its_timeout() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=2)
    try:
        sandbox.pause()
        time.sleep(2.5)
        assert sandbox.get_info().state == SandboxState.PAUSED
    finally:
        assert sandbox.kill()


def pause_at_the_end() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=1, lifecycle={"on_timeout": "pause"})
    try:
        _wait_for(sandbox, SandboxState.PAUSED)
        sandbox.connect(timeout=1)
        assert sandbox.get_info().state == SandboxState.RUNNING
        # It is paused again, not killed: a resume keeps what happens at the end.
        _wait_for(sandbox, SandboxState.PAUSED)
    finally:
        assert sandbox.kill()


def _wait_for(sandbox: Sandbox, state: SandboxState) -> None:
    end = time.monotonic() + 15
    while sandbox.get_info().state != state:
        assert time.monotonic() < end
        time.sleep(0.1)


def auto_resume() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=100, lifecycle={"on_timeout": "pause", "auto_resume": True})
    try:
        assert sandbox.pause()
        assert sandbox.commands.run("echo awake", user="root").stdout == "awake\n"
        info = sandbox.get_info()
        assert info.state == SandboxState.RUNNING
        # The lifetime of the create began anew.
        assert timedelta(seconds=60) < info.end_at - datetime.now(UTC) <= timedelta(seconds=100)
        assert sandbox.is_running()
    finally:
        sandbox.kill()


def a_paused_sandbox_does_not_run() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=60)
    try:
        sandbox.pause()
        assert not sandbox.is_running()
        with pytest.raises(Exception, match="not found"):
            sandbox.commands.run("true", user="root")
        assert sandbox.get_info().state == SandboxState.PAUSED
    finally:
        sandbox.kill()


def fork() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=300, metadata={"a": "b"})
    copies: list[Sandbox] = []
    try:
        end = sandbox.get_info().end_at
        copies = [each for each in sandbox.fork(timeout=60, count=2) if isinstance(each, Sandbox)]
        assert len({sandbox.sandbox_id, *(each.sandbox_id for each in copies)}) == 3
        for copy in copies:
            info = copy.get_info()
            assert info.state == SandboxState.RUNNING
            assert info.metadata == {"a": "b"}
            assert info.end_at < datetime.now(UTC) + timedelta(seconds=61)
        assert sandbox.get_info().end_at == end
    finally:
        for each in (sandbox, *copies):
            assert each.kill()


def snapshots() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=120)
    made = None
    try:
        snapshot = sandbox.create_snapshot()
        named = sandbox.create_snapshot(name="kept")
        assert named.snapshot_id == "kept:default"
        assert named.names == ["kept:default"]
        assert sandbox.is_running
        listed = sandbox.list_snapshots().next_items()
        assert {each.snapshot_id for each in listed} == {snapshot.snapshot_id, named.snapshot_id}
        pages = Sandbox.list_snapshots(limit=1)
        first = pages.next_items()
        assert pages.has_next
        assert {each.snapshot_id for each in first + pages.next_items()} == {
            snapshot.snapshot_id, named.snapshot_id
        }  # fmt: skip
        # The same name again: a new version in place of the old one.
        sandbox.create_snapshot(name="kept")
        assert len(Sandbox.list_snapshots().next_items()) == 2
        sandbox.kill()
        made = Sandbox.create(named.snapshot_id, timeout=60)
        assert made.get_info().state == SandboxState.RUNNING
    finally:
        sandbox.kill()
        if made is not None:
            made.kill()
    for each in (snapshot, named):
        assert Sandbox.delete_snapshot(each.snapshot_id)
        assert not Sandbox.delete_snapshot(each.snapshot_id)


async def pause_and_connect_async() -> None:
    sandbox = await AsyncSandbox.create(TEMPLATE, timeout=60)
    try:
        assert await sandbox.pause()
        again = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
        assert (await again.get_info()).state == SandboxState.RUNNING
        (copy,) = await again.fork(timeout=30)
        assert isinstance(copy, AsyncSandbox)
        assert await copy.kill()
    finally:
        assert await sandbox.kill()


def metrics() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=60)
    try:
        end = time.monotonic() + 20
        while not (found := sandbox.get_metrics()):
            assert time.monotonic() < end
            time.sleep(0.2)
        newest = found[-1]
        assert newest.cpu_count >= 1
        assert 0 <= newest.cpu_used_pct <= 100
        assert 0 < newest.mem_used <= newest.mem_total
        assert newest.disk_total > 0
        assert abs(newest.timestamp - datetime.now(UTC)) < timedelta(seconds=30)
        since = sandbox.get_metrics(start=datetime.now(UTC) + timedelta(hours=1))
        assert since == []
    finally:
        sandbox.kill()


def update_network() -> None:
    sandbox = Sandbox.create(
        TEMPLATE, timeout=60, network={"deny_out": ["0.0.0.0/0"], "allow_out": ["9.9.9.9"]}
    )
    try:
        assert _egress(sandbox) == (["9.9.9.9"], ["0.0.0.0/0"])
        sandbox.update_network({"allow_out": ["8.8.4.4"]})
        assert _egress(sandbox) == (["8.8.4.4"], [])
        named = ["api.example.com", "*.example.org", "8.8.4.4"]
        sandbox.update_network({"deny_out": ["0.0.0.0/0"], "allow_out": named})
        assert _egress(sandbox) == (named, ["0.0.0.0/0"])
        with pytest.raises(SandboxException, match="all else is denied"):
            sandbox.update_network({"allow_out": named})
        sandbox.update_network({"allow_internet_access": False})
        assert sandbox.get_info().allow_internet_access is False
        with pytest.raises(SandboxException, match="denyOut"):
            sandbox.update_network({"deny_out": ["example.com"]})
    finally:
        sandbox.kill()


def _egress(sandbox: Sandbox) -> tuple[object, object]:
    network = sandbox.get_info().network
    assert network is not None
    return network.get("allow_out"), network.get("deny_out")
