"""Metrics: what is counted, under which labels, and where it is read."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from prometheus_client import Gauge

from wrenn.base.addresses import MetricsAddress
from wrenn.base.errors import InvalidRequest
from wrenn.telemetry import Metrics, RequestMetrics, serving_metrics

HERE = MetricsAddress("127.0.0.1")


async def read(port: int, path: str = "/metrics", accept: str = "text/plain") -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})


def requests_of(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line.startswith("test_requests_total")]
    return {line.partition("{")[2].partition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_requests_are_counted_by_method_route_and_status() -> None:
    metrics = Metrics()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"] == "/gone":
            raise asyncio.CancelledError
        kind = "websocket.accept" if scope["type"] == "websocket" else "http.response.start"
        await send({"type": kind, "status": 404 if scope["path"] == "/none" else 200})

    counted = RequestMetrics(app, metrics, "test", lambda scope: scope["path"].split("/")[1])

    async def no_message() -> Any:
        raise AssertionError("nothing is read")

    async def serve(kind: str, method: str, path: str) -> None:
        async def send(_message: Any) -> None:
            pass

        scope = {"type": kind, "path": path} | ({"method": method} if kind == "http" else {})
        await counted(scope, no_message, send)

    await serve("http", "GET", "/a/1")
    await serve("http", "GET", "/a/2")
    await serve("http", "GET", "/none")
    await serve("http", "BREW", "/a/3")
    await serve("websocket", "", "/a/4")
    await serve("lifespan", "", "")
    with pytest.raises(asyncio.CancelledError):
        await serve("http", "POST", "/gone")

    async with serving_metrics(metrics, HERE) as port:
        text = (await read(port)).text
    assert requests_of(text) == {
        'method="GET",route="a",status="200"': 2,
        'method="GET",route="none",status="404"': 1,
        'method="other",route="a",status="200"': 1,
        'method="WEBSOCKET",route="a",status="101"': 1,
        'method="POST",route="gone",status="0"': 1,
    }
    assert "test_requests_in_progress 0.0" in text
    assert 'test_request_duration_seconds_count{method="GET",route="a"} 2.0' in text


async def test_gauges_are_fresh_and_one_source_that_fails_hides_no_other() -> None:
    metrics = Metrics()
    gauge = Gauge("test_size", "A size.", registry=metrics.registry)

    async def refresh() -> None:
        gauge.inc()

    async def fail() -> None:
        raise ValueError("no such thing")

    metrics.before_scrape(fail)
    metrics.before_scrape(refresh)
    async with serving_metrics(metrics, HERE) as port:
        assert "test_size 1.0" in (await read(port)).text
        answer = await read(port, accept="application/openmetrics-text")
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert "test_size 2.0" in answer.text
        assert "process_resident_memory_bytes" in answer.text
        assert (await read(port, "/")).status_code == 404


async def test_a_port_that_is_taken_stops_only_whoever_chose_it(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    async with serving_metrics(metrics, HERE) as port:
        async with serving_metrics(metrics, MetricsAddress("127.0.0.1", port, is_default=True)) as second:
            assert second == 0
        assert "metrics are not served" in caplog.text
        with pytest.raises(InvalidRequest, match=f"127.0.0.1:{port}"):
            async with serving_metrics(metrics, MetricsAddress("127.0.0.1", port)):
                pass


async def test_metrics_can_be_turned_off() -> None:
    async with serving_metrics(Metrics(), MetricsAddress.parse("X", "off", default_port=1)) as port:
        assert port == 0


@pytest.mark.parametrize("text", ["9000", "localhost:", "localhost:x", "localhost:65536"])
def test_an_address_that_is_none_is_refused_with_the_settings_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="WRENN_X must be HOST:PORT"):
        MetricsAddress.parse("WRENN_X", text, default_port=1)


def test_addresses() -> None:
    assert MetricsAddress.parse("X", "", default_port=8001) == MetricsAddress(
        "127.0.0.1", 8001, is_default=True
    )
    assert MetricsAddress.parse("X", "[::1]:9", default_port=1) == MetricsAddress("::1", 9)
