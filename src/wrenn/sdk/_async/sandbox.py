"""The sandbox: create or connect, ask, end."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._async.commands import AsyncCommands
from wrenn.sdk._async.files import AsyncFiles
from wrenn.sdk._parse import Fields, json_of, objects
from wrenn.sdk.errors import NotFoundError
from wrenn.sdk.settings import DEFAULT_REQUEST_TIMEOUT_S, client_settings
from wrenn.sdk.types import SandboxInfo


class AsyncSandbox:
    """A small virtual machine that runs code. Made by `create` or `connect`, not by its constructor.

    Used as a context manager it is removed at the end, also after an error.
    """

    def __init__(self, api: AsyncApi, sandbox_id: str) -> None:
        self._api = api
        self.id = sandbox_id
        self.commands = AsyncCommands(api, sandbox_id)
        self.files = AsyncFiles(api, sandbox_id)

    @classmethod
    async def create(
        cls,
        template: str = "minimal",
        *,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        timeout_sec: int | None = None,
        envs: Mapping[str, str] | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> Self:
        """Start a sandbox and return when its guest answers.

        What is None is left to the platform. After `timeout_sec` without use it is removed by itself. `envs` is the
        environment of all its commands. Repeated safely when the platform is briefly away: one call makes one sandbox.

        Raises:
            NotFoundError: no such template.
            CapacityError: no host has room; the message says what is full.
        """
        options = {
            "vcpus": vcpus,
            "memory_mb": memory_mb,
            "timeout_sec": timeout_sec,
            "envs": dict(envs) if envs else None,
        }
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            body = await api.call(
                "POST",
                path_of(),
                json={
                    "template": template,
                    **{name: value for name, value in options.items() if value is not None},
                },
                headers={"Idempotency-Key": uuid.uuid4().hex},
                repeatable=True,
            )
            return cls(api, Fields("sandbox", json_of(body)).text("id"))
        except BaseException:
            await api.close()
            raise

    @classmethod
    async def connect(
        cls,
        sandbox_id: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> Self:
        """The sandbox with this id.

        Raises:
            NotFoundError: there is none, or it is another team's.
        """
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        sandbox = cls(api, sandbox_id)
        try:
            await sandbox.info()
        except BaseException:
            await api.close()
            raise
        return sandbox

    @classmethod
    async def list(
        cls,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> builtins.list[SandboxInfo]:
        """The team's sandboxes that have not ended, newest first."""
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            body = await api.call("GET", path_of(), repeatable=True)
        finally:
            await api.close()
        return [SandboxInfo.parse(fields) for fields in objects("sandbox", json_of(body))]

    async def info(self) -> SandboxInfo:
        """The sandbox as the platform knows it now."""
        return SandboxInfo.parse(
            Fields("sandbox", json_of(await self._api.call("GET", path_of(self.id), repeatable=True)))
        )

    async def is_running(self) -> bool:
        """True while its status is `running`; False also when it is gone."""
        try:
            return (await self.info()).status == "running"
        except NotFoundError:
            return False

    async def ping(self) -> None:
        """Say that it is still in use: its `timeout_sec` begins anew.

        Raises:
            InvalidStateError: it is not running.
        """
        await self._api.call("POST", path_of(self.id, "ping"), repeatable=True)

    async def kill(self) -> None:
        """End the sandbox and remove all that belongs to it. Killing twice is the same as once."""
        try:
            await self._api.call("DELETE", path_of(self.id), repeatable=True)
        finally:
            await self._api.close()

    async def close(self) -> None:
        """Close the connections to the platform; the sandbox goes on. A call after that opens new ones."""
        await self._api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.kill()

    def __repr__(self) -> str:
        return f"AsyncSandbox({self.id})"
