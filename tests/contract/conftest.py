"""The platform that the SDK is held against."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from contract_server import KEY, Contract
from sdk_clients import Platform
from starlette.applications import Starlette


@pytest.fixture
async def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Platform]:
    """A live platform, named by the environment too.

    `WRENN_CONTRACT_URL` and `WRENN_CONTRACT_KEY` hold the suite against a real one; else it is `Contract`.
    """
    async with AsyncExitStack() as stack:
        url, key = os.environ.get("WRENN_CONTRACT_URL"), os.environ.get("WRENN_CONTRACT_KEY", KEY)
        if url is None:
            contract = Contract(tmp_path)
            stack.push_async_callback(contract.close)
            url = await stack.enter_async_context(served(contract.app))
        monkeypatch.setenv("WRENN_BASE_URL", url)
        monkeypatch.setenv("WRENN_API_KEY", key)
        yield Platform(url, key)


@asynccontextmanager
async def served(app: Starlette) -> AsyncGenerator[str]:
    """Serve an application on a free port; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving
