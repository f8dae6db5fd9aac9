"""The middleware around every request (`control/http/middleware.py`)."""

from __future__ import annotations

import logging

import pytest
from starlette.types import Message, Receive, Scope, Send

from wrenn.control.http.middleware import RequestIds


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/v1/sandboxes/x", "/v1/sandboxes/x"),
        ("/v1/downloads/wrd_secret", "/v1/downloads/…"),
        ("/below/v1/downloads/wrd_secret", "/below/v1/downloads/…"),
    ],
)
async def test_a_request_that_fails_is_logged_without_the_secret_of_its_path(
    path: str, logged: str, caplog: pytest.LogCaptureFixture
):
    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ValueError("a fault of ours")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await RequestIds(fail)({"type": "http", "path": path, "headers": []}, receive, send)
    assert sent[0]["status"] == 500
    (record,) = [each for each in caplog.records if each.message == "request failed"]
    assert record.levelno == logging.ERROR
    assert vars(record)["path"] == logged
