"""A server that speaks Google Cloud Storage for tests: fake-gcs-server, built from its Go module, in memory.

Of the XML interface it knows no upload but by a signed URL, and answers it without an ETag. A proxy before it marks the uploads of the
control plane, which Google knows by another signature, in the same way, and adds the ETag; all else passes unchanged. Uploads in parts (of objects above
8 MiB) are beyond it.
"""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from yarl import URL

from tests.go_programs import GoProgram
from wrenn.testing.server import free_port

_PROGRAM: Final = GoProgram("github.com/fsouza/fake-gcs-server", "v1.56.1")
_BUCKET: Final = "images"
_START_TIMEOUT_S: Final = 30.0
_OBJECT_LIMIT_B: Final = 64 * 1024 * 1024
_HOP_HEADERS: Final = ("host", "content-length", "transfer-encoding", "connection")
_SIGNED: Final = "X-Goog-Algorithm"


@asynccontextmanager
async def google_server(folder: Path) -> AsyncGenerator[dict[str, str]]:
    """Run a server with an empty bucket; yields the settings of a control plane that uses it. Its key is written to `folder`."""
    if not await asyncio.to_thread(_PROGRAM.build):
        pytest.skip("No test runs against Google Cloud Storage: Go is missing, which builds fake-gcs-server.")
    port, public_port = free_port(), free_port()
    process = subprocess.Popen(
        [
            str(_PROGRAM.path), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
            "-public-host", f"127.0.0.1:{public_port}", "-log-level", "error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            await _create_bucket(session, port)
            async with _proxy(session, port, public_port):
                key = folder / "service-account.json"
                key.touch(mode=0o600)
                key.write_text(json.dumps(_service_account(f"http://127.0.0.1:{public_port}")))
                yield {
                    "WRENN_STORE": f"gs://{_BUCKET}/prefix",
                    "GOOGLE_SERVICE_ACCOUNT": str(key),
                    # Or a token would be asked of Google first.
                    "GOOGLE_SKIP_SIGNATURE": "true",
                    "GOOGLE_ALLOW_HTTP": "true",
                }
    finally:
        process.terminate()
        process.wait(10)


async def _create_bucket(session: aiohttp.ClientSession, port: int) -> None:
    async with asyncio.timeout(_START_TIMEOUT_S):
        while True:
            try:
                answer = await session.post(
                    f"http://127.0.0.1:{port}/storage/v1/b?project=tests", json={"name": _BUCKET}
                )
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
    assert answer.status == 200, await answer.text()


@asynccontextmanager
async def _proxy(session: aiohttp.ClientSession, port: int, public_port: int) -> AsyncGenerator[None]:
    async def forward(request: web.Request) -> web.Response:
        url = URL(f"http://127.0.0.1:{port}{request.raw_path}", encoded=True)
        if request.method == "PUT" and _SIGNED not in url.query:
            url = url.update_query({_SIGNED: "GOOG4-RSA-SHA256"})
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_HEADERS}
        async with session.request(
            request.method,
            url,
            data=io.BytesIO(await request.read()),
            # By its public name the server tells these calls from those of its other interface.
            headers={**headers, "Host": f"127.0.0.1:{public_port}"},
            allow_redirects=False,
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_HEADERS}
            if request.method == "PUT":
                # Google's answer has it, and the library for stores asks for it.
                kept.setdefault("ETag", '"uploaded"')
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    application = web.Application(client_max_size=_OBJECT_LIMIT_B)
    application.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", public_port).start()
        yield
    finally:
        await runner.cleanup()


def _service_account(url: str) -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "client_email": "tests@example.com",
        "private_key": key.decode(),
        "private_key_id": "1",
        "gcs_base_url": url,
    }
