"""Builds as their users see them: begun, listed, followed, cancelled."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from wrenn.base.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RateLimited,
)
from wrenn.base.ids import BuildId, TeamId
from wrenn.control.audit import PLATFORM_TEAM, Actor
from wrenn.control.auth import Account, Caller, Credential, OpenCalls, Scope
from wrenn.control.builds import layer_store, login_store, store
from wrenn.control.builds.recipes import Facts, check_recipe, container_image_of, is_from_archive
from wrenn.control.builds.records import ENDED, Build, BuildRequest, BuildStatus, LogEntry, LogKind, owner_of
from wrenn.control.builds.types import CreateBuild, StepsJson
from wrenn.control.builds.uploads import RECEIVED_AT_ONCE, ArchiveUploads
from wrenn.control.db import Database, Transaction
from wrenn.control.http import StreamedBody
from wrenn.control.identity import OwnerShare, Role, ensure_platform_team, lock_active_team
from wrenn.control.images import owner_name
from wrenn.control.objects import ObjectStore
from wrenn.control.registries import ImageLogin, RegistryCredentials
from wrenn.control.sandboxes import SandboxSizeLimits
from wrenn.control.templates import DEFAULT_TEMPLATE, LATEST, NameReserved, Reference
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.recipe import end_at_stage

_LIST_LIMIT: Final = 100
_UNFINISHED_LIMIT: Final = 20
"""Builds of a team that have not ended."""
_LOG_PAGE: Final = 500
_POLL_S: Final = 0.5
_SILENCE_S: Final = 15.0
_STREAMS_LIMIT: Final = 200
_STREAMS_OF_TEAM: Final = 20
_READS_LIMIT: Final = 32
"""Logs that this replica sends as a whole at once; each has a step's output in memory."""
_READS_OF_TEAM: Final = 8
_UPLOADS_OF_OWNER: Final = 4
"""Of all teams of one owner, as of the following."""
_READS_OF_OWNER: Final = 12
_STREAMS_OF_OWNER: Final = 60
_READ_TIMEOUT_S: Final = 120.0


class TooManyBuilds(Conflict):
    """The team has too many builds that have not ended."""

    code = "too_many_builds"


class BuildExists(Conflict):
    """There is a build with the id that the caller has chosen."""

    code = "build_exists"


class BuildEnded(Conflict):
    """The build has ended already."""

    code = "build_ended"


@dataclass
class LogStream:
    """The frames of a build's log, for `EventStreamResponse`."""

    frames: AsyncIterator[bytes]
    subscription: LogSubscription


class LogSubscription:
    """Tells a stream when to stop."""

    def __init__(self) -> None:
        self.over = asyncio.Event()


class Builds:
    """Begins builds, lists them, follows their logs, cancels them. `wake`: has this replica's worker look for builds."""

    def __init__(
        self,
        *,
        database: Database,
        objects: ObjectStore,
        uploads: ArchiveUploads,
        credentials: RegistryCredentials,
        limits: SandboxSizeLimits,
        open_calls: OpenCalls,
        wake: Callable[[], None],
    ) -> None:
        self._open_calls = open_calls
        self._wake = wake
        self._database = database
        self._objects = objects
        self._credentials = credentials
        self._limits = limits
        self._uploads = uploads
        self._streams: dict[LogSubscription, TeamId] = {}
        self._reading: Counter[TeamId] = Counter()
        self._reads_of_owners = OwnerShare(
            database, limit=_READS_OF_OWNER, what="reads of build logs", scarce_from=_READS_LIMIT // 2
        )
        self._streams_of_owners = OwnerShare(
            database, limit=_STREAMS_OF_OWNER, what="streams of build logs", scarce_from=_STREAMS_LIMIT // 2
        )
        self._uploads_of_owners = OwnerShare(
            database, limit=_UPLOADS_OF_OWNER, what="uploads of archives", scarce_from=RECEIVED_AT_ONCE // 2
        )
        self._recipes_of_owners = OwnerShare(database, limit=_UNFINISHED_LIMIT, what="recipes to be read")
        self._reading_recipe = asyncio.Semaphore(1)

    def close(self) -> None:
        """End all streams, which would go on as long as their builds."""
        for stream in self._streams:
            stream.over.set()

    async def create(
        self,
        caller: Caller,
        body: CreateBuild,
        archive: AsyncIterator[bytes] | None = None,
        *,
        build_id: BuildId | None = None,
        tags: Sequence[str] | None = None,
        login: ImageLogin | None = None,
        also: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Build:
        """Check the recipe and queue the build.

        `login`: to the registry of the container image that the recipe begins with; kept encrypted until the build ends.
        `also`: written in the transaction that queues it.
        `build_id`: a new one that the caller has chosen, or else BuildExists is raised. `tags`: all that the version gets; by default `latest` and that of the body.

        Raises:
            InvalidRequest: of a recipe with the line. TooLarge: the archive. TooManyBuilds.
            NameReserved: `minimal`, of the platform.
        """
        if caller.team_id == PLATFORM_TEAM and body.name == DEFAULT_TEMPLATE:
            raise NameReserved(f"{DEFAULT_TEMPLATE} is built by hosts, and by no recipe.")
        self._check_values(body)
        await self._database.transaction(lambda tx: _require_few(tx, caller.team_id))
        request, facts = await self._read_recipe(caller.team_id, body)
        if is_from_archive(facts.base):
            if archive is None:
                raise InvalidRequest(
                    "archive: the base is a container image in the archive of the build: it is missing."
                )
            if facts.needs_context:
                raise InvalidRequest("archive: it has the base, so the recipe cannot copy files from it.")
        if facts.needs_context and archive is None:
            raise InvalidRequest("archive: the recipe copies files, so it needs the archive of its context.")
        build_id = build_id or BuildId.new()
        sealed = None
        if login is not None:
            sealed = self._credentials.seal_for_build(
                login, caller.team_id, build_id, container_image_of(facts.base)
            )
        key = None
        if archive is not None:
            key = f"{owner_name(owner_of(caller.team_id))}/uploads/{build_id}"
            async with self._uploads_of_owners.taken(caller.team_id) as owner:
                await self._uploads.store(caller.team_id, owner, key, archive)
        if tags is None:
            tags = [LATEST, *([body.tag] if body.tag else [])]
        values = {
            "team_id": caller.team_id.value,
            "name": body.name,
            "tags": list(dict.fromkeys(tags)),
            "request": request.to_json(),
            "archive_key": key,
            "vcpus": body.vcpus,
            "memory_mb": body.memory_mb,
            "disk_size_mb": body.disk_size_mb,
            "total_steps": facts.steps,
        }

        async def insert(tx: Transaction) -> Build:
            if caller.team_id == PLATFORM_TEAM:
                await ensure_platform_team(tx)
            await lock_active_team(tx, caller.team_id)
            await _require_few(tx, caller.team_id)
            inserted = await store.insert_pending(tx, build_id, values, by=caller.actor)
            if inserted is None:
                raise BuildExists("There is a build with this id already.")
            if sealed is not None:
                await login_store.put(tx, build_id, sealed)
            if also is not None:
                await also(tx)
            return inserted

        try:
            build = await self._database.transaction(insert)
        except Exception:
            # The build may be there all the same: of another request with this id, or if the commit was not answered. Nor is the
            # archive deleted after a cancellation, with which the transaction goes on, or while the database does not answer.
            if key is not None and await store.get(self._database, caller.team_id, build_id) is None:
                await self._objects.delete([key])
            raise
        self._wake()
        return build

    @staticmethod
    def for_platform(admin: Account) -> Caller:
        """Return the admin as a caller for the platform's own team: what its builds make is for all teams."""
        return Caller(admin.actor, PLATFORM_TEAM, Role.ADMIN, Scope.FULL)

    async def list(self, caller: Caller) -> list[Build]:
        """Return the team's newest builds, at most 100."""
        return await store.of_team(self._database, caller.team_id, limit=_LIST_LIMIT)

    async def get(self, caller: Caller, text_id: str) -> Build:
        """Return one build of the team. Raises NotFound, InvalidRequest."""
        build_id = BuildId.parse(text_id)
        found = await store.get(self._database, caller.team_id, build_id)
        if found is None:
            raise NotFound(f"There is no build {build_id}.")
        return found

    async def cancel(self, caller: Caller, text_id: str) -> None:
        """Ask for the end of a build; one that runs ends within some seconds. Does nothing if that was asked before.

        Raises:
            NotFound. BuildEnded.
        """
        build_id = BuildId.parse(text_id)
        status = await store.cancel(self._database, caller.team_id, build_id, by=caller.actor)
        if status is None:
            raise NotFound(f"There is no build {build_id}.")
        if status in ENDED and status is not BuildStatus.CANCELLED:
            raise BuildEnded(f"The build has ended: {status}.")

    async def remove_all(self, tx: Transaction, team_id: TeamId, _by: Actor) -> None:
        """Ask for the end of all builds of a team that is deleted in this transaction, and forget what its cache knows of bases."""
        await store.cancel_all(tx, team_id)
        await layer_store.forget_bases(tx, team_id)

    async def log_page(
        self, caller: Caller, text_id: str, *, offset: int, limit: int
    ) -> tuple[Build, list[LogEntry]]:
        """Return a build, and entries of the log of its last attempt after the first `offset` ones. Raises as `get`."""
        build = await self.get(caller, text_id)
        return build, await store.log_page(self._database, build.build_id, offset=offset, limit=limit)

    @asynccontextmanager
    async def log(self, caller: Caller, text_id: str) -> AsyncGenerator[StreamedBody]:
        """Open the whole log of the last attempt as JSON, which is read while it is sent.

        Raises:
            As `get`. RateLimited. DeadlineExceeded: the client reads too slowly.
        """
        build = await self.get(caller, text_id)
        if self._reading[caller.team_id] >= _READS_OF_TEAM or self._reading.total() >= _READS_LIMIT:
            raise RateLimited("Too many logs are read at this moment. Try again.")
        self._reading[caller.team_id] += 1
        try:
            async with self._reads_of_owners.taken(caller.team_id), asyncio.timeout(_READ_TIMEOUT_S):
                yield StreamedBody(self._steps(build))
        except TimeoutError as error:
            raise DeadlineExceeded("The log was not read in time.") from error
        finally:
            self._reading[caller.team_id] -= 1
            # Teams that read nothing any more.
            self._reading += Counter()

    async def _steps(self, build: Build) -> AsyncIterator[bytes]:
        steps, after, between = StepsJson(), 0, b"["
        is_last = False
        while not is_last:
            page, _ = await store.read_log(self._database, build.build_id, after=after, limit=_LOG_PAGE)
            is_last = len(page) < _LOG_PAGE
            for entry in page:
                after = entry.entry_id
                if (step := steps.add(entry)) is not None:
                    yield between + step
                    between = b","
        for step in steps.rest():
            yield between + step
            between = b","
        yield b"[]" if between == b"[" else b"]"

    @asynccontextmanager
    async def follow(
        self, credential: Credential, caller: Caller, text_id: str, last_event_id: str | None
    ) -> AsyncGenerator[LogStream]:
        """Open the stream of a build's log behind the event `last_event_id`, until the build has ended or the credential does not allow it."""
        build = await self.get(caller, text_id)
        if last_event_id is not None and not (last_event_id.isascii() and last_event_id.isdigit()):
            raise InvalidRequest("Last-Event-ID: must be the id of an event of this log.")
        own = sum(team_id == caller.team_id for team_id in self._streams.values())
        if own >= _STREAMS_OF_TEAM or len(self._streams) >= _STREAMS_LIMIT:
            raise RateLimited("Too many logs are followed at this moment. Try again.")
        subscription = LogSubscription()

        def may_see(now: Caller) -> bool:
            if build.owner is None:
                return now.account is not None and now.account.is_admin
            return now.team_id == build.team_id

        self._streams[subscription] = caller.team_id
        try:
            async with self._streams_of_owners.taken(caller.team_id):
                with self._open_calls.watched(credential, may_see, lambda _: subscription.over.set()):
                    yield LogStream(self._frames(build, int(last_event_id or 0)), subscription)
        finally:
            del self._streams[subscription]

    async def _frames(self, build: Build, after: int) -> AsyncIterator[bytes]:
        silent_s = 0.0
        while True:
            page, status = await store.read_log(self._database, build.build_id, after=after, limit=_LOG_PAGE)
            for entry in page:
                after = entry.entry_id
                yield _frame(*_event(entry, build.total_steps), entry_id=after)
            if not page and status in ENDED:
                ended = await store.get(self._database, build.team_id, build.build_id)
                error = None if ended is None or not ended.error else ended.error
                yield _frame("end", {"status": status.value, "error": error}, entry_id=after)
                return
            if len(page) < _LOG_PAGE:
                silent_s = 0.0 if page else silent_s + _POLL_S
                if silent_s >= _SILENCE_S:
                    silent_s = 0.0
                    yield b": silence\n\n"
                await asyncio.sleep(_POLL_S)

    def check_size(self, *, vcpus: int, memory_mb: int, disk_size_mb: int) -> None:
        """Check the size of the sandbox of a build, which is the default of its template. Raises InvalidRequest."""
        limits = self._limits
        for field, value, least, most in (
            ("vcpus", vcpus, 1, limits.vcpus),
            ("memory_mb", memory_mb, limits.memory_min_mb, limits.memory_max_mb),
            ("disk_size_mb", disk_size_mb, DEFAULT_DISK_SIZE_MB, limits.disk_max_mb),
        ):
            if not least <= value <= most:
                raise InvalidRequest(f"{field}: must be between {least} and {most}.")

    def _check_values(self, body: CreateBuild) -> None:
        if (body.recipe is None) == (body.dockerfile is None):
            raise InvalidRequest("Give either recipe or dockerfile.")
        if body.target is not None and body.dockerfile is None:
            raise InvalidRequest("target: only a Dockerfile has stages.")
        self.check_size(vcpus=body.vcpus, memory_mb=body.memory_mb, disk_size_mb=body.disk_size_mb)
        Reference.parse(body.base_template, field="base_template")

    async def _read_recipe(self, team_id: TeamId, body: CreateBuild) -> tuple[BuildRequest, Facts]:
        """Read the recipe in a thread, so that one that is hard to read holds nothing else up. Raises InvalidRequest. RateLimited."""
        # One after the other, as each may take some hundred milliseconds of a CPU.
        async with self._recipes_of_owners.taken(team_id), self._reading_recipe:
            return await asyncio.to_thread(_read, body)


def _read(body: CreateBuild) -> tuple[BuildRequest, Facts]:
    dockerfile = body.dockerfile or ""
    if body.target is not None:
        # What comes after it is not kept: also a worker of the former release makes this stage then.
        dockerfile = end_at_stage(dockerfile, body.target, build_args=body.build_args)
    request = BuildRequest(
        recipe=tuple(body.recipe or ()),
        dockerfile=dockerfile,
        build_args=body.build_args,
        base_template=body.base_template,
        healthcheck=body.healthcheck or "",
        skip_pre_post=body.skip_pre_post or body.dockerfile is not None,
        use_cache=not body.no_cache,
    )
    return request, check_recipe(request)


async def _require_few(tx: Transaction, team_id: TeamId) -> None:
    if await store.count_unfinished(tx, team_id) >= _UNFINISHED_LIMIT:
        raise TooManyBuilds(f"The team has {_UNFINISHED_LIMIT} builds that have not ended.")


def _event(entry: LogEntry, total: int) -> tuple[str, dict[str, Any]]:
    data = dict(entry.data)
    match entry.kind:
        case LogKind.STEP:
            return "step", {"step": entry.step, "total": total, **data}
        case LogKind.STDOUT | LogKind.STDERR:
            return "output", {"step": entry.step, "stream": entry.kind.value, "text": data["text"]}
        case LogKind.END:
            return "done", {"step": entry.step, **data}
        case LogKind.NOTE:
            return "note", {"message": data["text"]}


def _frame(kind: str, data: dict[str, Any], *, entry_id: int) -> bytes:
    return f"id: {entry_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
