"""The platform that the SDK is held against."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvicorn
from contract_server import KEY, Contract
from sdk_clients import Platform
from starlette.applications import Starlette

from wrenn.testing.server import served


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
            port = await stack.enter_async_context(served(config_of(contract.app)))
            url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("WRENN_BASE_URL", url)
        monkeypatch.setenv("WRENN_API_KEY", key)
        yield Platform(url, key)


def config_of(app: Starlette) -> uvicorn.Config:
    """How to serve an application on a free port."""
    return uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
