"""Which credential of a request is counted, and what makes it a known one."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from wrenn.base.clock import SystemClock
from wrenn.control.http import Rates, digest_of
from wrenn.control.http.buckets import Rate
from wrenn.control.http.rate_limits import RateLimits, RateSettings

KEY = b"wrn_" + b"0" * 32


async def answered(rates: Rates, path: str, headers: list[tuple[bytes, bytes]], status: int = 200) -> int:
    """The status of one request through the limits, to an application that answers with `status`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    said: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": ("192.0.2.1", 1)}
    await RateLimits(app, rates)(scope, receive, send)
    return said[0]


def strict() -> Rates:
    """One request of a credential that is not known, and two guesses, in a long time."""
    return Rates(
        RateSettings(Rate(1000, 1000), Rate(0.001, 3), failures_per_address=Rate(0.001, 2)), SystemClock()
    )


@pytest.mark.parametrize("path", ["/e2b/openapi.json", "/openapi.json", "/v1/auth/login"])
async def test_an_answer_without_a_credential_proves_none(path: str):
    rates = strict()
    statuses = [await answered(rates, path, [(b"x-api-key", b"%d" % number)]) for number in range(5)]
    assert statuses == [200, 200, 200, 429, 429], "all share the bucket of their address"


async def test_the_credential_that_is_looked_up_is_the_one_that_is_counted():
    rates = strict()
    for number in range(5):
        # Which of the two is first makes no difference: the key is looked up.
        headers = [(b"authorization", b"Bearer %d" % number), (b"x-api-key", KEY)]
        assert await answered(rates, "/v1/sandboxes", headers) == 200
    attempt = rates.begin(
        {"type": "http", "client": ("192.0.2.2", 1)}, digest_of(b"Bearer 0", kind=b"authorization")
    )
    attempt.failed()
    assert await answered(rates, "/v1/sandboxes", [(b"authorization", b"Bearer 1")], status=401) == 401
