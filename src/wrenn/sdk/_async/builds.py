"""Builds of templates: the builder, and calls about builds."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import BinaryIO

from wrenn.sdk._aio import chunks_of, in_thread, sleep
from wrenn.sdk._async import templates
from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._form import UploadForm
from wrenn.sdk._parse import Fields, json_of, objects
from wrenn.sdk._recipe import BuildRequest, RecipeBuilder
from wrenn.sdk._retry import jittered
from wrenn.sdk._sse import Frames
from wrenn.sdk.errors import (
    BuildFailedError,
    ConnectionFailedError,
    DeadlineExceededError,
    RateLimitError,
    UnavailableError,
    WrennError,
)
from wrenn.sdk.settings import DEFAULT_REQUEST_TIMEOUT_S, Session, client_settings
from wrenn.sdk.types import Build, BuildEvent, BuildStep, TemplateInfo

_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_SILENT_FOR_S = 300.0
_PASSING = (ConnectionFailedError, DeadlineExceededError, RateLimitError, UnavailableError)


class AsyncTemplate(RecipeBuilder):
    """A template to build: `AsyncTemplate().from_image("debian:12").run("…")`, then `build(name)`.

    The class methods are about templates and builds that exist.
    """

    async def build(
        self,
        name: str,
        *,
        tag: str | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_size_mb: int | None = None,
        no_cache: bool = False,
        skip_pre_post: bool = True,
        on_event: Callable[[BuildEvent], object] | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
        admin: Session | None = None,
    ) -> Build:
        """Build the template, and return when it can be used: `Sandbox.create(build.template)`.

        The recipe is checked before anything is sent. `on_event` is called with what happens meanwhile. A build of a name
        that exists makes another version, which the name then refers to. If this call is interrupted the build
        goes on: `cancel_build` ends it. Without `skip_pre_post` the platform runs `apt-get update` before the recipe and
        cleans up after it, for bases that are Debian; never for a Dockerfile. With the session of an admin of the platform
        (`admin`) the template is the platform's, which all teams see.

        Raises:
            BuildFailedError: the build failed, or was cancelled.
            InvalidRequestError: the recipe or a value is not valid; the message has the line.
        """
        request = self._request(
            name,
            tag=tag,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_size_mb=disk_size_mb,
            no_cache=no_cache or None,
            skip_pre_post=skip_pre_post,
        )
        api = AsyncApi(
            client_settings(
                api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s, admin=admin
            )
        )
        try:
            started = await start(api, request)
            async for event in follow(api, started.id):
                if on_event is not None:
                    on_event(event)
            ended = await get(api, started.id)
        finally:
            await api.close()
        if ended.status != "success":
            raise BuildFailedError(ended)
        return ended

    async def start_build(
        self,
        name: str,
        *,
        tag: str | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_size_mb: int | None = None,
        no_cache: bool = False,
        skip_pre_post: bool = True,
        api_key: str | None = None,
        base_url: str | None = None,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
        admin: Session | None = None,
    ) -> Build:
        """Begin to build the template, and return at once. The arguments are those of `build`."""
        request = self._request(
            name,
            tag=tag,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_size_mb=disk_size_mb,
            no_cache=no_cache or None,
            skip_pre_post=skip_pre_post,
        )
        api = AsyncApi(
            client_settings(
                api_key=api_key, base_url=base_url, request_timeout_s=request_timeout_s, admin=admin
            )
        )
        try:
            return await start(api, request)
        finally:
            await api.close()

    @classmethod
    async def get(
        cls, reference: str, *, api_key: str | None = None, base_url: str | None = None
    ) -> TemplateInfo:
        """Return the version of a template that `NAME` (its latest), `NAME:TAG` or an id refers to.

        Raises:
            NotFoundError: no such template.
        """
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url))
        try:
            return await templates.get(api, reference)
        finally:
            await api.close()

    @classmethod
    async def set_tag(
        cls, reference: str, tag: str, *, api_key: str | None = None, base_url: str | None = None
    ) -> TemplateInfo:
        """Let a tag refer to a version. `latest` is the one that the name alone refers to, so this also rolls back.

        The version that had the tag is removed if no other tag refers to it.

        Raises:
            NotFoundError: no such template.
            ForbiddenError: it belongs to the platform.
        """
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url))
        try:
            return await templates.set_tag(api, reference, tag)
        finally:
            await api.close()

    @classmethod
    async def builds(
        cls, *, api_key: str | None = None, base_url: str | None = None, admin: Session | None = None
    ) -> builtins.list[Build]:
        """List the team's builds, newest first."""
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url, admin=admin))
        try:
            body = await api.call("GET", api.build_path(), repeatable=True)
            return [Build.parse(fields) for fields in objects("build", json_of(body))]
        finally:
            await api.close()

    @classmethod
    async def get_build(
        cls,
        build_id: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        admin: Session | None = None,
    ) -> Build:
        """Return a build's current state.

        Raises:
            NotFoundError: no such build.
        """
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url, admin=admin))
        try:
            return await get(api, build_id)
        finally:
            await api.close()

    @classmethod
    async def build_log(
        cls,
        build_id: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        admin: Session | None = None,
    ) -> builtins.list[BuildStep]:
        """Return the steps that a build has carried out, with their output."""
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url, admin=admin))
        try:
            body = await api.call("GET", api.build_path(build_id, "logs"), repeatable=True)
            return [BuildStep.parse(fields) for fields in objects("step of a build", json_of(body))]
        finally:
            await api.close()

    @classmethod
    async def follow_build(
        cls,
        build_id: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        admin: Session | None = None,
    ) -> AsyncGenerator[BuildEvent]:
        """Iterate over what happened in a build since its beginning, and what happens, until it has ended."""
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url, admin=admin))
        try:
            async for event in follow(api, build_id):
                yield event
        finally:
            await api.close()

    @classmethod
    async def cancel_build(
        cls,
        build_id: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        admin: Session | None = None,
    ) -> None:
        """Cancel a build. Its status is `cancelled` within some seconds.

        Raises:
            WrennError: it has ended.
        """
        api = AsyncApi(client_settings(api_key=api_key, base_url=base_url, admin=admin))
        try:
            await api.call("POST", api.build_path(build_id, "cancel"), repeatable=True)
        finally:
            await api.close()


async def start(api: AsyncApi, request: BuildRequest) -> Build:
    """Begin a build, with the files that it copies."""
    if not request.has_archive:
        body = await api.call("POST", api.build_path(), json=request.config)
    else:
        archive = await in_thread(request.pack)
        try:
            form = UploadForm({"config": json.dumps(request.config)}, file="archive")
            body = await api.upload(
                api.build_path(), _form_chunks(form, archive), content_type=form.content_type
            )
        finally:
            archive.close()
    return Build.parse(Fields("build", json_of(body)))


async def get(api: AsyncApi, build_id: str) -> Build:
    """Return a build's current state."""
    return Build.parse(
        Fields("build", json_of(await api.call("GET", api.build_path(build_id), repeatable=True)))
    )


async def follow(api: AsyncApi, build_id: str) -> AsyncGenerator[BuildEvent]:
    """Yield the events of a build until its end. A broken connection is opened again, and no event is lost or repeated.

    Raises:
        WrennError: the first connection failed; later, only permanent errors, or the platform has not answered for five minutes.
    """
    last, connected, pause_s = "", False, _PAUSE_S
    lost_at: float | None = None
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        frames = Frames()
        try:
            async for piece in api.listen(api.build_path(build_id, "logs"), headers=headers):
                connected, pause_s, lost_at = True, _PAUSE_S, None
                for frame in frames.feed(piece):
                    last = frame.id or last
                    yield BuildEvent.parse(
                        frame.type, Fields("event of a build", json_of(frame.data.encode()))
                    )
                    if frame.type == "end":
                        return
        except WrennError as error:
            lost_at = lost_at or time.monotonic()
            given_up = time.monotonic() - lost_at > _SILENT_FOR_S
            if not connected or given_up or not isinstance(error, _PASSING):
                raise
        # A session's token is asked for anew when a connection is opened.
        await api.close()
        await sleep(jittered(pause_s))
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


async def _form_chunks(form: UploadForm, archive: BinaryIO) -> AsyncIterator[bytes]:
    yield form.head
    async for chunk in chunks_of(archive):
        yield chunk
    yield form.tail
