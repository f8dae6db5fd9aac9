"""The page that shows the API loads nothing from a foreign host, and tells none."""

from __future__ import annotations

import re

import httpx2

from wrenn.control.http.app import build_app


async def test_the_docs_name_no_host_and_all_that_they_load_is_there():
    transport = httpx2.ASGITransport(app=build_app({}, {}))
    async with httpx2.AsyncClient(transport=transport, base_url="http://wrenn.test") as api:
        page = await api.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "//" not in page.text
        assert '"validatorUrl": null' in page.text
        loaded = re.findall(r"""(?:src=|href=|url: )["']([^"']+)["']""", page.text)
        assert len(loaded) == 4
        for path in loaded:
            answer = await api.get(path)
            assert (answer.status_code, bool(answer.content)) == (200, True), path
        assert (await api.get("/docs/parts/none")).json()["error"]["code"] == "not_found"
