"""The built dashboard as the control plane serves it: paths, headers, caches, and what it must not take over."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi import APIRouter

from wrenn.control import dashboard
from wrenn.control.dashboard import BASE_SENTINEL, BuiltDashboard
from wrenn.control.http.app import api_router, build_app
from wrenn.control.http.domain import are_ports_below_pages

PAGE = f"""<!doctype html>
<html><head>
<link rel="modulepreload" href="{BASE_SENTINEL}/_app/immutable/entry/start.abc.js">
<script src="{BASE_SENTINEL}/theme.js"></script>
</head><body>
<script>
{{ __sveltekit_1 = {{ base: "{BASE_SENTINEL}" }}; import("{BASE_SENTINEL}/_app/immutable/entry/start.abc.js") }}
</script>
</body></html>
"""
SCRIPT = f'const base = "{BASE_SENTINEL}";\n' + "export const filler = 1;\n" * 200
HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder as the build leaves it."""
    folder = tmp_path / "built"
    (folder / "_app/immutable/entry").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "_app/version.json").write_text('{"version":"1"}')
    (folder / "_app/immutable/entry/start.abc.js").write_text(SCRIPT)
    (folder / "_app/immutable/entry/start.abc.js.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (folder / "_app/immutable/entry/start.abc.js.br").write_bytes(b"for another path")
    (folder / "favicon.svg").write_text("<svg/>")
    (folder / "font.woff2").write_bytes(b"\x00" + BASE_SENTINEL.encode())
    return folder


_api = APIRouter()


@_api.post("/only-post")
async def only_post() -> None:
    """An endpoint that knows one method."""


@asynccontextmanager
async def serving(folder: Path, public_url: str | None = None) -> AsyncGenerator[httpx2.AsyncClient]:
    app = build_app(api_router({"/v1/things": [_api]}), None)
    dashboard.install(app, BuiltDashboard.load(folder, public_url))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://wrenn.test") as api:
        yield api


@pytest.mark.parametrize(
    "path", ["/", "/login", "/t/ada/sandboxes/cl-1/files", "/account", "/admin/hosts", "/v10"]
)
async def test_every_path_of_the_dashboard_is_its_page(built: Path, path: str):
    async with serving(built) as api:
        answer = await api.get(path, headers=HTML)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text == PAGE.replace(BASE_SENTINEL, "")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    "path",
    [
        "/v1", "/v1/none", "/docs/none", "/openapi.none", "/auth/oauth/none/callback/x", "/account/parts/none.js",
        "/_app/immutable/entry/start.old.js", "/_app/version.js", "/_app",
    ],
)  # fmt: skip
async def test_missing_paths_of_the_api_and_missing_scripts_are_errors_for_browsers_too(
    built: Path, path: str
):
    async with serving(built) as api:
        answer = await api.get(path, headers=HTML)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/html;q=0", "text/html; q=0.0", "image/*"]
)
async def test_a_program_that_asks_for_a_wrong_path_gets_an_error(built: Path, accept: str):
    async with serving(built) as api:
        answer = await api.get("/nothing", headers={"Accept": accept})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_the_api_and_its_pages_win(built: Path):
    (built / "docs").write_text("not these")
    (built / "health").write_text("not these")
    async with serving(built) as api:
        assert "swagger" in (await api.get("/docs", headers=HTML)).text
        assert (await api.get("/health", headers=HTML)).json()["status"] == "ok"
        assert "openapi" in (await api.get("/openapi.json", headers=HTML)).json()
        invitation = await api.get("/account/invitation", headers=HTML)
        assert "account.js" in invitation.text
        assert (await api.get("/v1/things/only-post", headers=HTML)).status_code == 405
        assert (await api.post("/login", json={})).status_code == 404


async def test_the_policy_admits_the_script_of_the_page_as_it_is_served_and_no_other(built: Path):
    async with serving(built, "https://example.com/wrenn") as api:
        answer = await api.get("/", headers=HTML)
        policy = answer.headers["content-security-policy"]
        inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert f"script-src 'self' 'sha256-{digest}';" in policy
        assert policy.count("sha256-") == 1
        for part in (
            "default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ):  # fmt: skip
            assert part in policy
        assert "unsafe-eval" not in policy
        for path in ("/", "/favicon.svg", "/_app/immutable/entry/start.abc.js"):
            headers = (await api.get(path, headers=HTML)).headers
            assert headers["content-security-policy"] == policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("public_url", "base"),
    [
        (None, ""),
        ("https://example.com", ""),
        ("https://example.com/wrenn", "/wrenn"),
        ("https://example.com/a/b/", "/a/b"),
        ("""https://example.com/a"</script>'\\""", "/a%22%3C/script%3E%27%5C"),
    ],
)
async def test_the_base_is_the_path_of_the_public_url(built: Path, public_url: str | None, base: str):
    async with serving(built, public_url) as api:
        assert (await api.get("/", headers=HTML)).text == PAGE.replace(BASE_SENTINEL, base)
        script = await api.get("/_app/immutable/entry/start.abc.js")
        assert script.headers["content-encoding"] == "gzip"
        assert script.text == SCRIPT.replace(BASE_SENTINEL, base)
        assert (await api.get("/font.woff2")).content == b"\x00" + BASE_SENTINEL.encode(), "no text"


async def test_compressed_copies_of_the_build_are_not_served(built: Path):
    async with serving(built) as api:
        for ending in ("gz", "br"):
            assert (await api.get(f"/_app/immutable/entry/start.abc.js.{ending}")).status_code == 404
        for encoding in ("identity", "br", "gzip;q=0"):
            script = await api.get(
                "/_app/immutable/entry/start.abc.js", headers={"Accept-Encoding": encoding}
            )
            assert "content-encoding" not in script.headers
            assert script.headers["vary"] == "Accept-Encoding"
            assert script.content == SCRIPT.replace(BASE_SENTINEL, "").encode()


async def test_names_with_digests_are_cached_for_ever_and_all_else_is_asked_for_again(built: Path):
    async with serving(built) as api:
        for path, cached in (
            ("/_app/immutable/entry/start.abc.js", "public, max-age=31536000, immutable"),
            ("/_app/version.json", "no-cache"),
            ("/favicon.svg", "no-cache"),
            ("/", "no-cache"),
        ):
            first = await api.get(path, headers=HTML)
            assert first.headers["cache-control"] == cached
            etag = first.headers["etag"]
            for said in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
                again = await api.get(path, headers={**HTML, "If-None-Match": said})
                assert (again.status_code, again.content) == (304, b"")
                assert again.headers["etag"] == etag
                assert again.headers["cache-control"] == cached
            assert (await api.get(path, headers={**HTML, "If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/secret", "/_app/..%2f..%2fsecret", "//etc/passwd"]
)
async def test_no_file_outside_the_folder_is_served(built: Path, path: str):
    (built.parent / "secret").write_text("secret")
    async with serving(built) as api:
        answer = await api.get(path)
        assert answer.status_code == 404


async def test_without_a_build_the_page_says_how_to_make_one(tmp_path: Path):
    async with serving(tmp_path / "none") as api:
        answer = await api.get("/", headers=HTML)
        assert answer.status_code == 404
        assert "make setup" in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        for path, headers in (("/", {}), ("/login", HTML)):
            assert (await api.get(path, headers=headers)).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("domain", "public_url", "is_below"),
    [
        ("", None, False),
        ("", "http://localhost:8000", False),
        ("", "https://wrenn.example.com", True),
        ("wrenn.example.com", "https://wrenn.example.com/path", True),
        ("ports.wrenn.example.com:8443", "https://WRENN.example.com", True),
        ("sandboxes.example.net", "https://wrenn.example.com", False),
        ("sandboxes.example.com", "https://wrenn.example.com", False),
        ("example.com", "https://wrenn.example.com", False),
    ],
)
def test_it_is_known_when_pages_of_sandboxes_could_set_cookies_for_the_dashboard(
    domain: str, public_url: str | None, *, is_below: bool
):
    assert are_ports_below_pages(domain, public_url) == is_below
