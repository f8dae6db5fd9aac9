"""One request has one id in the logs of the control plane, the agent and the guest agent."""

from __future__ import annotations

import logging

import pytest
import websockets

from wrenn.base.ids import SandboxId
from wrenn.base.request_ids import REQUEST_ID_HEADER, RequestIdFilter, accept_request_id, request_id

from .conftest import Platform

GUEST_LINE = "envd: request {}: /filesystem.Filesystem/Stat failed: not_found"


def _programs(caplog: pytest.LogCaptureFixture, name: str) -> set[str]:
    """The programs that logged something about this request."""
    return {
        record.name.split(".")[1] for record in caplog.records if getattr(record, "request_id", "") == name
    }


async def test_all_logs_name_the_request(platform: Platform, caplog: pytest.LogCaptureFixture):
    caplog.handler.addFilter(RequestIdFilter())
    caplog.set_level(logging.DEBUG, "wrenn")
    path = await platform.create()
    guest = platform.host.agent.sandboxes.get(SandboxId.parse(path.rpartition("/")[2]))

    answer = await platform.api.post(f"{path}/files/stat", json={"path": "/none"})
    assert answer.status_code == 404
    name = answer.headers["x-request-id"]
    assert _programs(caplog, name) == {"control", "agent"}
    assert GUEST_LINE.format(name) in await guest.vm.console()

    # A client's own id is its own: none of ours, neither in our logs nor in the guest's.
    mine = {REQUEST_ID_HEADER: "mine", "x-request-id": "mine"}
    answer = await platform.api.post(f"{path}/files/stat", json={"path": "/none"}, headers=mine)
    name = answer.headers["x-request-id"]
    assert name != "mine"
    assert GUEST_LINE.format(name) in await guest.vm.console()
    assert "mine" not in await guest.vm.console()
    assert _programs(caplog, "mine") == set()


async def test_a_stream_has_the_id_of_its_handshake(platform: Platform):
    path = await platform.create()
    guest = platform.host.agent.sandboxes.get(SandboxId.parse(path.rpartition("/")[2]))
    url = f"{platform.url.replace('http', 'ws')}{path}/exec/stream"
    # The second one uses the connection to the agent that was made ahead of need.
    for _ in range(2):
        async with websockets.connect(url, additional_headers={"X-API-Key": platform.key.reveal()}) as socket:
            name = socket.response.headers["x-request-id"] if socket.response else ""
            await socket.send('{"type": "start", "cmd": "/none"}')
            async for _message in socket:
                pass
        assert f"envd: request {name}: /process.Process/Start failed: not_found" in await guest.vm.console()


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "é", "a" * 65])
def test_an_id_that_is_long_or_unsafe_is_ignored(bad: str):
    accept_request_id("good-1")
    assert request_id.get() == "good-1"
    accept_request_id(bad)
    assert request_id.get() == ""
