"""The sandbox: create or connect, inspect, pause and resume, fork, remove."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from types import TracebackType
from typing import Self

from wrenn.base.on_failure import on_failure_await
from wrenn.sdk._aio import in_thread
from wrenn.sdk._async import listing, metrics, states, templates
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._async.code import AsyncCode
from wrenn.sdk._async.commands import AsyncCommands
from wrenn.sdk._async.files import AsyncFiles
from wrenn.sdk._async.git import AsyncGit
from wrenn.sdk._async.pty import AsyncPty
from wrenn.sdk._lease import Lease, lease_limits
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._paths import with_path
from wrenn.sdk.errors import InvalidRequestError, NotFoundError
from wrenn.sdk.settings import DEFAULT_REQUEST_TIMEOUT_S, client_settings
from wrenn.sdk.types import (
    GuestProcess,
    ListeningPort,
    MetricPoint,
    MetricsRange,
    NetworkPolicy,
    OnExpiry,
    SandboxInfo,
    TemplateInfo,
    TemplateType,
    networks,
)


class AsyncSandbox:
    """A small virtual machine that runs code. Obtained from `create` or `connect`, not from the constructor.

    As a context manager it is removed at the end of the block, also after an error, unless it was paused
    within the block and is still paused. If this program is killed, the platform removes the sandbox within
    ten minutes: within the block the sandbox has a lifetime of ten minutes, which a thread extends every
    minute, unless it was created with a lifetime. Pausing the sandbox removes this limit.
    """

    def __init__(self, api: AsyncApi, sandbox_id: str, *, domain: str | None = None) -> None:
        self._api = api
        self.id = sandbox_id
        self._domain = domain or api.settings.domain
        # Paused through this object, and not resumed through it since.
        self._is_paused_by_us = False
        # Extends its lifetime while a `with` block runs.
        self._lease: Lease | None = None
        self.commands = AsyncCommands(api, sandbox_id)
        self.files = AsyncFiles(api, sandbox_id)
        self.pty = AsyncPty(api, sandbox_id)
        self.git = AsyncGit(self.commands)
        self.code = AsyncCode(api, sandbox_id)
        self.run_code = self.code.run

    @classmethod
    async def create(
        cls,
        template: str | TemplateInfo = "minimal",
        *,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_size_mb: int | None = None,
        timeout_sec: int | None = None,
        lifetime_sec: int | None = None,
        on_expiry: OnExpiry | None = None,
        lift_on_pause: bool | None = None,
        auto_resume: bool | None = None,
        keep_memory_on_pause: bool | None = None,
        envs: Mapping[str, str] | None = None,
        public_ports: Iterable[int] | None = None,
        network: NetworkPolicy | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        host_tags: Iterable[str] | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> Self:
        """Start a sandbox and return once its guest responds.

        For arguments that are None the platform's defaults apply. After `timeout_sec` without use the sandbox
        is paused (0: never). After `lifetime_sec`, used or not, it is paused, or with `on_expiry="kill"`
        removed (0: never); with `lift_on_pause` a `pause()` removes that limit. With `auto_resume` a call to
        the paused sandbox resumes it. Without `keep_memory_on_pause` these pauses keep only its files. `envs` is the environment of all its commands. `public_ports` can be
        visited without credentials. `network` is its egress policy, which applies before its first program
        runs. `list()` can filter by `name`, which need not be unique, and by `metadata`. `disk_size_mb` is
        the size of its root file system, at least that of the template. It is placed on a host that has all
        `host_tags`. A `template` of type `snapshot`
        determines `vcpus`, `memory_mb` and `disk_size_mb`. The call is retried safely if the platform is
        briefly unavailable: it creates only one sandbox.

        Without `lifetime_sec` the sandbox has a lifetime of ten minutes until this client has received the
        platform's response, and none afterwards. So a client that is killed meanwhile, or whose call fails,
        leaves no sandbox behind.

        Raises:
            NotFoundError: no such template.
            CapacityError: no host has capacity; the message says which resource is exhausted.
        """
        options = {
            "vcpus": vcpus,
            "memory_mb": memory_mb,
            "disk_size_mb": disk_size_mb,
            "timeout_sec": timeout_sec,
            "lifetime_sec": lifetime_sec,
            "on_expiry": on_expiry,
            "lift_on_pause": lift_on_pause,
            "auto_resume": auto_resume,
            "keep_memory_on_pause": keep_memory_on_pause,
            "envs": dict(envs) if envs else None,
            "public_ports": list(public_ports) if public_ports else None,
            "network": asdict(network) if network else None,
            "name": name or None,
            "metadata": dict(metadata) if metadata else None,
            "host_tags": list(host_tags) if host_tags else None,
        }
        is_leased = lifetime_sec is None and lift_on_pause is None
        if is_leased:
            options |= lease_limits()
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        async with on_failure_await(api.close):
            body = await api.call(
                "POST",
                path_of(),
                json={
                    "template": template.name if isinstance(template, TemplateInfo) else template,
                    **{name: value for name, value in options.items() if value is not None},
                },
                headers={"Idempotency-Key": uuid.uuid4().hex},
                repeatable=True,
            )
            made = Fields("sandbox", json_of(body))
            sandbox_id = made.text("id")
            if is_leased:
                await states.end_lease(api, sandbox_id, on_expiry=on_expiry or "pause")
            return cls(api, sandbox_id, domain=made.optional_text("domain"))

    @classmethod
    async def connect(
        cls,
        sandbox_id: str,
        *,
        resume: bool = True,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> Self:
        """Connect to the sandbox with this id, and resume it if it is paused, unless `resume=False`.

        Several clients may connect at once: one of them resumes it. Its time limits are not changed.

        Raises:
            NotFoundError: no such sandbox, or it belongs to another team.
            InvalidStateError: it is paused and cannot be resumed.
            CapacityError: it is paused and its host has no capacity.
        """
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        async with on_failure_await(api.close):
            seen = await (states.resume_if_paused if resume else states.info)(api, sandbox_id)
        return cls(api, sandbox_id, domain=seen.domain)

    @classmethod
    async def list(
        cls,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        state: Iterable[str] | None = None,
        search: str | None = None,
        limit: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> builtins.list[SandboxInfo]:
        """List the team's sandboxes that have not ended, newest first; at most `limit`.

        Filters: `name` (`*` matches any text), entries of `metadata`, and `state`, one of several states. `search` is
        text in the id, the name, the template, or the metadata.
        """
        query = listing.query_params(name, metadata, state, search)
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        if limit is not None:
            found = listing.iter_pages(api, query, limit=limit, page_size=listing.PAGE_LIMIT)
            return [info async for info in found]
        try:
            return await listing.list_all(api, query)
        finally:
            await api.close()

    @classmethod
    def iter(
        cls,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        state: Iterable[str] | None = None,
        search: str | None = None,
        limit: int | None = None,
        page_size: int = listing.PAGE,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> AsyncGenerator[SandboxInfo]:
        """Iterate over the sandboxes that `list` returns, for teams with very many.

        Pages of `page_size` (at most 1000) are fetched while the iterator advances. Sandboxes created
        meanwhile are not included.

        Raises:
            InvalidRequestError: `limit` or `page_size` is out of range.
        """
        settings = client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        query = listing.query_params(name, metadata, state, search)
        return listing.iter_pages(AsyncApi(settings), query, limit=limit, page_size=page_size)

    @classmethod
    async def newest_metrics(
        cls,
        ids: Iterable[str] | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> dict[str, MetricPoint]:
        """Return the newest metrics of these running sandboxes of the team, by id; of all (at most 500) if `ids` is None."""
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            return await metrics.newest(api, ids)
        finally:
            await api.close()

    @classmethod
    async def templates(
        cls,
        type: TemplateType | None = None,  # noqa: A002
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> builtins.list[TemplateInfo]:
        """List the templates that `create` can use: those of the team and of the platform, of all types or one."""
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            return await templates.find(api, type)
        finally:
            await api.close()

    @classmethod
    async def delete_template(
        cls,
        name: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> None:
        """Delete a template of the team. Sandboxes created from it are not affected.

        Raises:
            NotFoundError: no such template.
            ForbiddenError: it belongs to the platform.
        """
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            await templates.delete(api, name)
        finally:
            await api.close()

    async def info(self) -> SandboxInfo:
        """Return the sandbox's current state."""
        return await states.info(self._api, self.id)

    async def metrics(self, span: MetricsRange = "10m") -> builtins.list[MetricPoint]:
        """Return what it used over time, oldest point first. This does not count as use of it.

        The points go back from now, or from its last point if it does not run; also behind pauses.
        """
        return await metrics.series(self._api, self.id, span)

    async def is_running(self) -> bool:
        """Whether its status is `running`; False also if it no longer exists."""
        try:
            return (await self.info()).status == "running"
        except NotFoundError:
            return False

    async def ping(self) -> None:
        """Report that the sandbox is still in use: its idle time starts again.

        Raises:
            InvalidStateError: it is not running.
        """
        await self._api.call("POST", path_of(self.id, "ping"), repeatable=True)

    async def pause(self, *, keep_memory: bool = True) -> None:
        """Pause the sandbox: memory, processes and files are saved, and it uses only disk space.

        Calls in progress get two seconds, then they fail. The sandbox stays paused until `resume()` or
        `kill()`, also across restarts of the platform. Without `keep_memory` only the files are saved: it
        takes less space, and boots when it is resumed.

        Raises:
            InvalidStateError: it is not running, e.g. already paused.
        """
        await states.pause(self._api, self.id, keep_memory=keep_memory)
        self._is_paused_by_us = True

    async def resume(self, *, keep_memory: bool = True) -> None:
        """Resume the paused sandbox: its processes continue where they were. Its network connections are not preserved.

        Without `keep_memory`, or if it was paused without, it boots from its disk, without its processes.

        Raises:
            InvalidStateError: it is not paused, e.g. already running.
            CapacityError: its host has no capacity.
        """
        await states.resume(self._api, self.id, keep_memory=keep_memory)
        self._is_paused_by_us = False
        if self._lease is not None:
            self._lease.renew_soon()

    async def move(self, *, pause: bool = False) -> None:
        """Move the paused sandbox to another host, which the platform chooses; it stays paused.

        Takes as long as the transfer of its memory and disk. If it fails, the sandbox stays where it is.

        Args:
            pause: a running sandbox is paused for the move and resumed afterwards. Its network connections end.

        Raises:
            InvalidStateError: it is not paused, or somebody is changing it.
            CapacityError: no other host can take it; the message says why.
        """
        await states.move(self._api, self.id, pause=pause)

    async def recover(self) -> datetime:
        """Start the sandbox, whose host is lost, on another host, from the state that the object store has of it.

        Returns when that state was saved. What happened since is lost, also when the host is back.

        Raises:
            InvalidStateError: its host is not lost, or the store has no state of it.
            CapacityError: no host can take it; the message says why.
        """
        return await states.recover(self._api, self.id)

    async def fork(self, count: int = 1) -> builtins.list[Self]:
        """Create copies of the running sandbox, with its memory, processes and files. The sandbox is suspended only briefly.

        Each copy has its own id, network and disk; remove each with `kill()`. A call whose connection broke
        is not retried: use `list()` to find copies that it may have made.

        Raises:
            InvalidStateError: it is not running.
            CapacityError: no capacity for all copies; none was created.
        """
        if count < 1:
            raise InvalidRequestError(f"count must be at least 1, not {count}.")
        body = await self._api.call("POST", path_of(self.id, "fork"), json={"count": count})
        made = Fields("fork", json_of(body)).objects("sandboxes", "sandbox")
        return [
            type(self)(self._api.new_client(), fields.text("id"), domain=fields.optional_text("domain"))
            for fields in made
        ]

    async def snapshot(
        self, name: str | None = None, *, overwrite: bool = False, keep_memory: bool = True
    ) -> TemplateInfo:
        """Create a template from the current state of the sandbox, with its processes. The sandbox keeps running, or stays paused.

        `Sandbox.create(template)` can be called any number of times. Without a name the platform generates
        one. With `overwrite` a template with this name is replaced; sandboxes created from the former one are
        not affected. Without `keep_memory` only the files of a running sandbox are kept, and sandboxes made of
        the template boot.

        Raises:
            NameTakenError: a template with this name exists, and `overwrite` is False.
            NameReservedError: the name is reserved for the platform.
            InvalidStateError: the sandbox has ended.
        """
        return await templates.snapshot(
            self._api, self.id, name, overwrite=overwrite, keep_memory=keep_memory
        )

    async def set_timeout(
        self,
        timeout_sec: int | None = None,
        *,
        lifetime_sec: int | None = None,
        on_expiry: OnExpiry | None = None,
        extend_only: bool = False,
    ) -> SandboxInfo:
        """Change the time limits, and return the updated sandbox. Limits that are None are not changed.

        `timeout_sec`: idle seconds until it is paused. `lifetime_sec`: seconds from now until `on_expiry`
        happens. 0 removes a limit. With `extend_only` the end of the lifetime is never moved to an earlier
        time.

        Raises:
            InvalidStateError: it has ended.
        """
        options = {"timeout_sec": timeout_sec, "lifetime_sec": lifetime_sec, "on_expiry": on_expiry}
        message = {name: value for name, value in options.items() if value is not None}
        if not message:
            raise InvalidRequestError("Nothing to set: give timeout_sec, lifetime_sec or on_expiry.")
        body = await self._api.call(
            "PATCH",
            path_of(self.id, "timeout"),
            json={**message, "extend_only": extend_only},
            repeatable=True,
        )
        return SandboxInfo.parse(Fields("sandbox", json_of(body)))

    async def change(
        self,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        public_ports: Iterable[int] | None = None,
    ) -> SandboxInfo:
        """Change the name, metadata or public ports, and return the updated sandbox. What is None is not changed.

        `metadata` and `public_ports` replace all that there are; an empty name removes it. Does not count as use.

        Raises:
            InvalidStateError: it has ended.
        """
        options = {
            "name": name,
            "metadata": None if metadata is None else dict(metadata),
            "public_ports": None if public_ports is None else list(public_ports),
        }
        message = {key: value for key, value in options.items() if value is not None}
        if not message:
            raise InvalidRequestError("Nothing to change: give name, metadata or public_ports.")
        body = await self._api.call("PATCH", path_of(self.id), json=message, repeatable=True)
        return SandboxInfo.parse(Fields("sandbox", json_of(body)))

    async def ports(self) -> builtins.list[ListeningPort]:
        """List the ports on which its programs accept connections. Does not count as use, nor resume it.

        Raises:
            InvalidStateError: it does not run.
        """
        answer = Fields(
            "ports", json_of(await self._api.call("GET", path_of(self.id, "ports"), repeatable=True))
        )
        return [ListeningPort.parse(fields) for fields in answer.objects("ports", "port")]

    async def processes(self) -> builtins.list[GuestProcess]:
        """List all its processes, at most 1024, whoever started them. Does not count as use, nor resume it.

        `commands.list()` has those that were started through the platform.

        Raises:
            InvalidStateError: it does not run.
        """
        body = await self._api.call("GET", path_of(self.id, "processes", "all"), repeatable=True)
        answer = Fields("processes", json_of(body))
        return [GuestProcess.parse(fields) for fields in answer.objects("processes", "process")]

    async def console(self) -> str:
        """Return what its kernel and first process wrote since it was started or resumed, at most the last 64 KiB.

        The sandbox itself is not asked, so this works when nothing in it answers.

        Raises:
            InvalidStateError: it does not run.
        """
        body = await self._api.call("GET", path_of(self.id, "console"), repeatable=True)
        return Fields("console", json_of(body)).text("text")

    async def set_disk(self, disk_size_mb: int) -> SandboxInfo:
        """Enlarge the disk, while running or paused, and return the updated sandbox. Files and processes are not affected.

        Its share of the host's disk grows by the same amount: a sandbox that was suspended because it used up
        its share continues. A paused sandbox has the larger disk when it is resumed.

        Raises:
            InvalidRequestError: smaller than the current size, or larger than the platform allows.
            CapacityError: its host has no capacity, or its share is still used up.
            InvalidStateError: it is neither running nor paused.
        """
        body = await self._api.call(
            "PATCH", path_of(self.id, "disk"), json={"disk_size_mb": disk_size_mb}, repeatable=True
        )
        return SandboxInfo.parse(Fields("sandbox", json_of(body)))

    async def set_network(
        self,
        *,
        allow_internet: bool | None = None,
        allow: str | Iterable[str] | None = None,
        deny: str | Iterable[str] | None = None,
    ) -> SandboxInfo:
        """Change the egress policy, while running or paused, and return the updated sandbox. None leaves a value unchanged, `[]` clears a list.

        The policy applies when this returns, to open connections too. `allow` takes precedence over `deny`.

        Raises:
            InvalidRequestError: not an IPv4 network, or one that no sandbox can reach.
            InvalidStateError: it is neither running nor paused.
        """
        options = {
            "allow_internet": allow_internet,
            "allow": None if allow is None else networks(allow),
            "deny": None if deny is None else networks(deny),
        }
        message = {name: value for name, value in options.items() if value is not None}
        if not message:
            raise InvalidRequestError("Nothing to set: give allow_internet, allow or deny.")
        body = await self._api.call("PATCH", path_of(self.id, "network"), json=message, repeatable=True)
        return SandboxInfo.parse(Fields("sandbox", json_of(body)))

    def get_host(self, port: int) -> str:
        """Return the host name of a port, including the platform's own port if it is not the default: `8000-cl-….localhost:8000`.

        Visitors need the API key in the header `X-API-Key`, unless the port is public or they use a link from
        `get_url`.

        Raises:
            InvalidRequestError: not a valid port.
        """
        if not 1 <= port <= 65_535:
            raise InvalidRequestError(f"port must be from 1 to 65535, not {port}.")
        return f"{port}-{self.id}.{self._domain}"

    async def get_url(self, port: int, *, path: str = "/", expires_in_sec: int | None = None) -> str:
        """Return the URL of a port with `path` (and its query, if any); a leading slash is optional.

        With `expires_in_sec` it is a signed link that needs no key until it expires: for browsers, and for
        other people. For a platform on this machine the host name ends with `.localhost`. Browsers and curl
        resolve such names; for a program that does not, connect to 127.0.0.1 and send the name as `Host`.

        Raises:
            InvalidRequestError: not a valid port, or longer than seven days.
        """
        if expires_in_sec is None:
            scheme = self._api.settings.base_url.partition(":")[0]
            return with_path(f"{scheme}://{self.get_host(port)}/", path)
        body = await self._api.call(
            "POST",
            path_of(self.id, "ports", str(port), "link"),
            json={"expires_in_sec": expires_in_sec},
            repeatable=True,
        )
        return with_path(Fields("link", json_of(body)).text("url"), path)

    async def kill(self) -> None:
        """Stop the sandbox and remove everything that belongs to it. Idempotent."""
        await self._end_lease()
        try:
            await self._api.call("DELETE", path_of(self.id), repeatable=True)
        finally:
            await self._api.close()

    async def close(self) -> None:
        """Close the connections to the platform; the sandbox keeps running. A later call opens new ones."""
        await self._api.close()

    async def __aenter__(self) -> Self:
        # After a failure, the block will not run, nor its exit.
        async with on_failure_await(self.kill):
            await self._begin_lease()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # If the block paused it last, it is kept; if another call has resumed it since, it is not.
        if self._is_paused_by_us and await self._is_paused():
            await self._end_lease()
            await self.close()
        else:
            await self.kill()

    async def _begin_lease(self) -> None:
        if self._lease is not None:
            return
        info = await self.info()
        is_leased = info.lift_on_pause and info.expires_at is not None
        if not is_leased:
            # A different limit was set by somebody, and a paused sandbox is meant to be kept.
            if info.expires_at is not None or info.status != "running":
                return
            is_leased = await self._take_lease()
        if is_leased:
            self._lease = Lease(self._api.settings, self.id)
            self._lease.start()

    async def _take_lease(self) -> bool:
        """Set the lifetime; return whether the sandbox has it. Platforms of an older version do not support it."""
        body = await self._api.call(
            "PATCH", path_of(self.id, "timeout"), json=lease_limits(), repeatable=True
        )
        if SandboxInfo.parse(Fields("sandbox", json_of(body))).lift_on_pause:
            return True
        await self.set_timeout(lifetime_sec=0)
        return False

    async def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await in_thread(lease.stop)

    async def _is_paused(self) -> bool:
        try:
            return (await self.info()).status == "paused"
        except NotFoundError:
            return False

    def __repr__(self) -> str:
        return f"AsyncSandbox({self.id})"
