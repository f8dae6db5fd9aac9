"""The dashboard as a running control plane serves it."""

from __future__ import annotations

from .conftest import Platform, client

HTML = {"Accept": "text/html"}


async def test_the_control_plane_serves_pages_to_browsers_and_errors_to_programs(platform: Platform):
    async with client(platform.url, None) as browser:
        page = await browser.get("/", headers=HTML)
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-request-id"]
        for path in ("/v1/nothing", "/_app/immutable/nothing.js"):
            missing = await browser.get(path, headers=HTML)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
        assert (await browser.get("/")).status_code in (200, 404)
