"""The sandbox: create or connect, ask, put away and bring back, copy, end."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Self

from wrenn.sdk._aio import in_thread
from wrenn.sdk._async import listing, states, templates
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._async.commands import AsyncCommands
from wrenn.sdk._async.files import AsyncFiles
from wrenn.sdk._async.git import AsyncGit
from wrenn.sdk._async.pty import AsyncPty
from wrenn.sdk._lease import Lease, lease_limits
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._paths import with_path
from wrenn.sdk.errors import InvalidRequestError, NotFoundError
from wrenn.sdk.settings import DEFAULT_REQUEST_TIMEOUT_S, client_settings
from wrenn.sdk.types import NetworkPolicy, OnExpiry, SandboxInfo, Template, TemplateType, networks


class AsyncSandbox:
    """A small virtual machine that runs code. Made by `create` or `connect`, not by its constructor.

    Used as a context manager it is removed at the end, also after an error. Only one that was paused within the block, and
    is still paused, is kept. When this program is killed, the platform removes it within ten minutes: until the end of the
    block it has a lifetime of ten minutes, which a thread extends each minute, unless it was given a lifetime of its own.
    Pausing it ends that lifetime.
    """

    def __init__(self, api: AsyncApi, sandbox_id: str, *, domain: str | None = None) -> None:
        self._api = api
        self.id = sandbox_id
        self._domain = domain or api.settings.domain
        # Paused through this object, and not resumed through it since.
        self._put_away = False
        # Extends its lifetime while a block runs.
        self._lease: Lease | None = None
        self.commands = AsyncCommands(api, sandbox_id)
        self.files = AsyncFiles(api, sandbox_id)
        self.pty = AsyncPty(api, sandbox_id)
        self.git = AsyncGit(self.commands)

    @classmethod
    async def create(
        cls,
        template: str | Template = "minimal",
        *,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_size_mb: int | None = None,
        timeout_sec: int | None = None,
        lifetime_sec: int | None = None,
        on_expiry: OnExpiry | None = None,
        lift_on_pause: bool | None = None,
        auto_resume: bool | None = None,
        envs: Mapping[str, str] | None = None,
        public_ports: Iterable[int] | None = None,
        network: NetworkPolicy | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> Self:
        """Start a sandbox and return when its guest answers.

        What is None is left to the platform. After `timeout_sec` without use it is paused by itself (0: never). After
        `lifetime_sec`, in use or not, it is paused or with `on_expiry="kill"` removed (0: never); with `lift_on_pause` a
        `pause()` removes that limit. With `auto_resume` a call
        to the paused sandbox resumes it. `envs` is the environment of all its commands. Anybody may visit its
        `public_ports`. `network` says what it may reach; it is in force before its first program runs. `list()` finds it by `name`, which need not be unique, and by `metadata`. `disk_size_mb` is the size of its root file system, not less than the template's. A `template` of type `snapshot` fixes `vcpus`, `memory_mb` and `disk_size_mb`. Repeated safely when the platform is briefly away: one call makes one sandbox.

        Without `lifetime_sec` it has a lifetime of ten minutes until this client has the platform's answer, and none from
        then on. So a client that is killed meanwhile, or whose call fails, leaves no sandbox behind.

        Raises:
            NotFoundError: no such template.
            CapacityError: no host has room; the message says what is full.
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
            "envs": dict(envs) if envs else None,
            "public_ports": list(public_ports) if public_ports else None,
            "network": asdict(network) if network else None,
            "name": name or None,
            "metadata": dict(metadata) if metadata else None,
        }
        is_leased = lifetime_sec is None and lift_on_pause is None
        if is_leased:
            options |= lease_limits()
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            body = await api.call(
                "POST",
                path_of(),
                json={
                    "template": template.name if isinstance(template, Template) else template,
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
        except BaseException:
            await api.close()
            raise

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
        """The sandbox with this id, resumed if it is paused; with `resume=False` as it is.

        Several may connect at once: one of them resumes it. Its time limits stay as they are.

        Raises:
            NotFoundError: there is none, or it is another team's.
            InvalidStateError: it is paused and cannot be resumed.
            CapacityError: it is paused and its host has no room.
        """
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            seen = await (states.wake if resume else states.info)(api, sandbox_id)
        except BaseException:
            await api.close()
            raise
        return cls(api, sandbox_id, domain=seen.domain)

    @classmethod
    async def list(
        cls,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        state: Iterable[str] | None = None,
        limit: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> builtins.list[SandboxInfo]:
        """The team's sandboxes that have not ended, newest first; at most `limit`.

        Only those of this `name` (`*` in it stands for any text), with these entries of `metadata`, in one of these states.
        """
        query = listing.query_of(name, metadata, state)
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        if limit is not None:
            found = listing.paged(api, query, limit=limit, page_size=listing.PAGE_LIMIT)
            return [info async for info in found]
        try:
            return await listing.whole(api, query)
        finally:
            await api.close()

    @classmethod
    def iter(
        cls,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        state: Iterable[str] | None = None,
        limit: int | None = None,
        page_size: int = listing.PAGE,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> AsyncGenerator[SandboxInfo]:
        """What `list` gives, one after the other: for teams with very many.

        Pages of `page_size` (at most 1000) are fetched as the iterator goes on. What is created meanwhile does not appear.

        Raises:
            InvalidRequestError: `limit` or `page_size` is out of bounds.
        """
        settings = client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        query = listing.query_of(name, metadata, state)
        return listing.paged(AsyncApi(settings), query, limit=limit, page_size=page_size)

    @classmethod
    async def templates(
        cls,
        type: TemplateType | None = None,  # noqa: A002
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    ) -> builtins.list[Template]:
        """The templates that `create` can start from: the team's and the platform's, of all types or of one."""
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
        """Delete a template of the team. Sandboxes that were made from it go on.

        Raises:
            NotFoundError: there is none of this name.
            ForbiddenError: it is the platform's.
        """
        api = AsyncApi(
            client_settings(api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s)
        )
        try:
            await templates.delete(api, name)
        finally:
            await api.close()

    async def info(self) -> SandboxInfo:
        """The sandbox as the platform knows it now."""
        return await states.info(self._api, self.id)

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

    async def pause(self) -> None:
        """Put the sandbox away: memory, processes and files are kept, and it uses disk space only.

        Calls under way get two seconds, then they fail. It stays until `resume()` or `kill()`, also across restarts of the
        platform.

        Raises:
            InvalidStateError: it is not running, e.g. paused already.
        """
        await states.pause(self._api, self.id)
        self._put_away = True

    async def resume(self) -> None:
        """Bring the paused sandbox back: its processes go on where they were. Connections to it are new ones.

        Raises:
            InvalidStateError: it is not paused, e.g. runs already.
            CapacityError: its host has no room.
        """
        await states.resume(self._api, self.id)
        self._put_away = False
        if self._lease is not None:
            self._lease.renew_soon()

    async def fork(self, count: int = 1) -> builtins.list[Self]:
        """Copies of the running sandbox, with its memory, processes and files. It goes on itself after a short stop.

        Each copy has an id, a network and a disk of its own; end each with `kill()`. A call that broke off is not
        repeated: copies that it made are in `list()`.

        Raises:
            InvalidStateError: it is not running.
            CapacityError: no room for all copies; then there is none.
        """
        if count < 1:
            raise InvalidRequestError(f"count must be at least 1, not {count}.")
        body = await self._api.call("POST", path_of(self.id, "fork"), json={"count": count})
        made = Fields("fork", json_of(body)).objects("sandboxes", "sandbox")
        return [
            type(self)(self._api.another(), fields.text("id"), domain=fields.optional_text("domain"))
            for fields in made
        ]

    async def snapshot(self, name: str | None = None, *, overwrite: bool = False) -> Template:
        """A template of the sandbox as it is now, with its processes; it goes on itself, running or paused.

        `Sandbox.create(template)` starts from it as often as you like. Without a name the platform makes one up. With
        `overwrite` a template of this name is replaced; sandboxes made from the former one go on.

        Raises:
            NameTakenError: there is a template of this name, and `overwrite` is False.
            NameReservedError: the name is kept for the platform.
            InvalidStateError: the sandbox has ended.
        """
        return await templates.snapshot(self._api, self.id, name, overwrite=overwrite)

    async def set_timeout(
        self,
        timeout_sec: int | None = None,
        *,
        lifetime_sec: int | None = None,
        on_expiry: OnExpiry | None = None,
        extend_only: bool = False,
    ) -> SandboxInfo:
        """Change its time limits, and return it with them; what is None stays.

        `timeout_sec`: seconds without use until it is paused. `lifetime_sec`: seconds from now until `on_expiry` happens.
        0 removes a limit. With `extend_only` the end of its lifetime is never made earlier.

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

    async def set_disk(self, disk_size_mb: int) -> SandboxInfo:
        """Make its disk larger, running or paused, and return it with that. Files stay; what runs goes on.

        It may take as much more of its host's disk: one that stands still because it used up its share goes on by this. A paused
        one has the larger disk when it is resumed.

        Raises:
            InvalidRequestError: smaller than it is, or larger than the platform allows.
            CapacityError: its host has no room for it, or it stands still after it too.
            InvalidStateError: it neither runs nor is paused.
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
        """Change what it may reach, running or paused, and return it with that; what is None stays, `[]` clears a list.

        In force when this returns, for open connections too. What is allowed wins over what is denied.

        Raises:
            InvalidRequestError: no IPv4 network, or one that no sandbox can reach.
            InvalidStateError: it neither runs nor is paused.
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
        """The host name of a port, with the platform's own port where it has an unusual one: `8000-cl-….localhost:8000`.

        Visitors need the API key in the header `X-API-Key`, unless the port is public or they come by a link of `get_url`.

        Raises:
            InvalidRequestError: no such port.
        """
        if not 1 <= port <= 65_535:
            raise InvalidRequestError(f"port must be from 1 to 65535, not {port}.")
        return f"{port}-{self.id}.{self._domain}"

    async def get_url(self, port: int, *, path: str = "/", expires_in_sec: int | None = None) -> str:
        """The URL of a port, and of `path` there (with its query, if any), with or without a slash at its begin.

        With `expires_in_sec` it is a link that needs no key until then: for browsers, and for others. On a platform of this
        machine the host ends with `.localhost`. Browsers and curl know such names; where a program does not resolve them, let
        it connect to 127.0.0.1 and send the name as `Host`.

        Raises:
            InvalidRequestError: no such port, or longer than seven days.
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
        """End the sandbox and remove all that belongs to it. Killing twice is the same as once."""
        await self._end_lease()
        try:
            await self._api.call("DELETE", path_of(self.id), repeatable=True)
        finally:
            await self._api.close()

    async def close(self) -> None:
        """Close the connections to the platform; the sandbox goes on. A call after that opens new ones."""
        await self._api.close()

    async def __aenter__(self) -> Self:
        try:
            await self._begin_lease()
        except BaseException:
            # The block will not run, nor its end.
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Paused as the block's last word, it was meant to be kept; resumed since by another call, it was not.
        if self._put_away and await self._is_paused():
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
            # Another limit of its life is somebody's wish, and one that is paused was meant to be kept.
            if info.expires_at is not None or info.status != "running":
                return
            is_leased = await self._take_lease()
        if is_leased:
            self._lease = Lease(self._api.settings, self.id)
            self._lease.start()

    async def _take_lease(self) -> bool:
        """Whether it has such a lifetime now; a platform of the former version knows none."""
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
