"""The page that shows the API loads nothing from a foreign host, and tells none."""

from __future__ import annotations

import re

import httpx2
import pytest
import yaml

from wrenn.control.http.app import api_router, build_app
from wrenn.control.http.yaml import yaml_of


async def test_the_docs_name_no_host_and_all_that_they_load_is_there():
    transport = httpx2.ASGITransport(app=build_app(api_router({}), None))
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


async def test_the_description_is_served_as_yaml_beside_json():
    app = build_app(api_router({}), None)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://wrenn.test") as api:
        answer = await api.get("/openapi.yaml")
        assert answer.headers["content-type"] == "application/yaml"
        assert yaml.safe_load(answer.text) == (await api.get("/openapi.json")).json()


@pytest.mark.parametrize(
    "value",
    [
        {
            "a": {
                "b": [
                    1,
                    2.5,
                    True,
                    None,
                    "x: y # z",
                    "",
                    [],
                    {},
                    [[1], {"c": "d"}],
                    {"e": [{"f": 1, "g": [2]}]},
                ]
            }
        },
        {"yes": "no", "1": 2, "a b": "\n\t\u2028\x07", "/v1/{id}": "- x", "": "ü", "null": None, "~": "~"},
        ["a", {"b": {}}, []],
        "text",
        [],
    ],
)
def test_yaml_means_what_json_means(value: object):
    assert yaml.safe_load(yaml_of(value)) == value
