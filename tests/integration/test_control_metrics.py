"""What a control plane tells Prometheus."""

from __future__ import annotations

from .conftest import Platform


async def scrape(platform: Platform) -> str:
    text, _ = await platform.control.metrics.render("text/plain")
    return text.decode()


async def test_requests_sandboxes_creates_and_loops_are_measured(platform: Platform) -> None:
    path = await platform.create()
    await platform.api.get(path)
    await platform.api.get(path)
    await platform.api.get("/v1/no-such-thing")
    await platform.api.get("/", headers={"Host": f"8000-{path.rpartition('/')[2]}.localhost"})
    text = await scrape(platform)
    requests = "wrenn_http_requests_total"
    assert f'{requests}{{method="GET",route="/v1/sandboxes/{{sandbox_id}}",status="200"}} 2.0' in text
    assert f'{requests}{{method="POST",route="/v1/sandboxes",status="201"}} 1.0' in text
    assert f'{requests}{{method="GET",route="other",status="404"}} 1.0' in text
    assert f'{requests}{{method="GET",route="port"' in text
    assert 'wrenn_sandboxes{status="running"} 1.0' in text
    assert 'wrenn_sandboxes{status="paused"} 0.0' in text
    assert 'wrenn_sandbox_create_seconds_count{phase="place"} 1.0' in text
    assert 'wrenn_sandbox_create_seconds_count{phase="start"} 1.0' in text
    assert 'wrenn_loop_last_success_timestamp_seconds{loop="look at hosts"}' in text
    assert 'wrenn_loop_failures_total{loop="look at hosts"} 0.0' in text
    assert 'wrenn_database_connections{state="in_use"}' in text
    assert path.rpartition("/")[2] not in text, "no series names a sandbox"


async def test_what_is_removed_leaves_no_count(platform: Platform) -> None:
    path = await platform.create()
    assert 'wrenn_sandboxes{status="running"} 1.0' in await scrape(platform)
    await platform.api.delete(path)
    assert 'wrenn_sandboxes{status="running"} 0.0' in await scrape(platform)
