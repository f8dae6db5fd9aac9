"""Sandboxes as the e2b API has them, over the platform's own services.

The rules are those of the services. Here is only what differs: a sandbox that has ended is not found, lifetimes begin anew with each
resume, and clients get a token that opens the guest agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wrenn.base.errors import InvalidRequest, InvalidState, NotFound
from wrenn.control.auth import Caller, Credential, Scope
from wrenn.control.e2b.bodies import own_request
from wrenn.control.e2b.errors import NotSupported
from wrenn.control.e2b.metadata_filter import parse_metadata_filter
from wrenn.control.e2b.network import egress, ingress
from wrenn.control.e2b.sandbox_types import NetworkUpdate, NewSandboxV2
from wrenn.control.e2b.template_lookup import TemplateLookup
from wrenn.control.proxy import AccessTokens, TrafficTokens
from wrenn.control.sandboxes import (
    ENDED,
    CreateSandbox,
    Creations,
    Deletions,
    Forks,
    LocatedSandbox,
    Lookup,
    Networks,
    Pauses,
    Resumes,
    Sandbox,
    SandboxFilter,
    SetNetwork,
    SetTimeout,
    State,
    TimeLimitChanges,
)

_RUNNING: Final = (State.RUNNING, State.MISSING)
"""A sandbox whose host is silent may well run."""
_STATES: Final = {"running": _RUNNING, "paused": (State.PAUSED,)}


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which sandboxes to list. See `SandboxFilter`; `metadata` and `states` as clients write them; no states: any."""

    metadata: str | None = None
    states: Sequence[str] = ()
    template: str | None = None
    started_after: datetime | None = None
    is_ascending: bool = False
    limit: int | None = None
    cursor: str | None = None


class E2bSandboxes:
    """Creates, finds, changes and ends sandboxes for clients of the e2b API."""

    def __init__(
        self,
        *,
        lookup: Lookup,
        template_lookup: TemplateLookup,
        creations: Creations,
        deletions: Deletions,
        pauses: Pauses,
        resumes: Resumes,
        forks: Forks,
        networks: Networks,
        time_limit_changes: TimeLimitChanges,
        access_tokens: AccessTokens,
        traffic_tokens: TrafficTokens,
    ) -> None:
        self._lookup = lookup
        self._template_lookup = template_lookup
        self._creations = creations
        self._deletions = deletions
        self._pauses = pauses
        self._resumes = resumes
        self._forks = forks
        self._networks = networks
        self._time_limit_changes = time_limit_changes
        self._access_tokens = access_tokens
        self._traffic_tokens = traffic_tokens

    async def create(self, caller: Caller, body: NewSandboxV2, idempotency_key: str | None) -> Sandbox:
        """Create a sandbox and return it when it runs.

        Raises:
            NotSupported: it needs what this platform does not have. Else as `Creations.create`.
        """
        template = await self._template_lookup.reference(caller, body.template_id)
        return await self._creations.create(caller, _own_create(body, template), idempotency_key)

    async def list(self, caller: Caller, query: ListQuery) -> tuple[list[Sandbox], str | None]:
        """Return a page of the caller's sandboxes, and the cursor of the next page.

        Raises:
            InvalidRequest: a filter cannot be read.
        """
        if unknown := [state for state in query.states if state not in _STATES]:
            raise InvalidRequest(f"state: {unknown[0][:40]!r} is none of {', '.join(_STATES)}.")
        if query.template is not None and ":" in query.template:
            raise InvalidRequest("template: must be a name or an id without a tag.")
        selected = SandboxFilter.parse(
            metadata=parse_metadata_filter(query.metadata) if query.metadata else (),
            state=[own for state in query.states or _STATES for own in _STATES[state]],
            template=query.template,
            started_after=query.started_after,
            sort="created_at" if query.is_ascending else None,
            limit=query.limit,
            cursor=query.cursor,
        )
        return await self._lookup.list(caller, selected)

    async def find(self, credential: Credential, text_id: str) -> LocatedSandbox:
        """Return a sandbox of the caller that has not ended.

        Raises:
            Unauthorized, Forbidden. NotFound: there is none, also if the text is no id.
        """
        try:
            found = await self._lookup.find(credential, _without_client_id(text_id))
        except InvalidRequest as error:
            raise NotFound(f"There is no sandbox {text_id[:64]!r}.") from error
        if found.sandbox.status in ENDED:
            raise NotFound(f"Sandbox {found.sandbox.sandbox_id.without_prefix} has ended.")
        return found

    def token(self, sandbox: Sandbox) -> str:
        """Return the token that opens the guest agent of a sandbox."""
        return self._access_tokens.of(sandbox.sandbox_id).reveal()

    def traffic_token(self, sandbox: Sandbox) -> str | None:
        """Return the token that opens the ports of a sandbox; None: anybody may visit them."""
        if sandbox.ingress.all_ports_public:
            return None
        return self._traffic_tokens.of(sandbox.sandbox_id).reveal()

    def tokens(self, sandbox: Sandbox) -> tuple[str, str | None]:
        """Return the token that opens the guest agent of a sandbox, and that of its ports; None: they are public."""
        return self.token(sandbox), self.traffic_token(sandbox)

    def token_for(self, caller: Caller, sandbox: Sandbox) -> str | None:
        """Return the same for callers who may change the sandbox; None: who may only read."""
        return None if caller.scope is Scope.READ else self.token(sandbox)

    async def kill(self, credential: Credential, text_id: str) -> None:
        """Remove a sandbox; returns when nothing of it is left.

        Raises:
            As `find` and `Deletions.delete`.
        """
        found = await self.find(credential, text_id)
        await self._deletions.delete(credential, str(found.sandbox.sandbox_id))

    async def set_timeout(self, credential: Credential, text_id: str, timeout_s: int) -> None:
        """Have a running sandbox end so many seconds from now; 0 or less: now.

        Raises:
            NotFound: as `find`, or it is paused: it gets its next end when it is resumed.
        """
        sandbox = (await self.find(credential, text_id)).sandbox
        if sandbox.status is State.PAUSED:
            raise NotFound(f"Sandbox {sandbox.sandbox_id.without_prefix} is paused.")
        own_id = str(sandbox.sandbox_id)
        if timeout_s > 0:
            change = own_request(SetTimeout, lifetime_sec=timeout_s, lift_on_pause=True)
            await self._time_limit_changes.set_timeout(credential, own_id, change)
        elif sandbox.on_expiry == "kill":
            await self._deletions.delete(credential, own_id)
        else:
            await self._pauses.pause(credential, own_id, keep_memory=sandbox.keep_memory_on_pause)

    async def refresh(self, credential: Credential, text_id: str, duration_s: int) -> None:
        """Have a running sandbox live so many seconds from now at least.

        Raises:
            NotFound: as `set_timeout`.
        """
        sandbox = (await self.find(credential, text_id)).sandbox
        if sandbox.status is State.PAUSED:
            raise NotFound(f"Sandbox {sandbox.sandbox_id.without_prefix} is paused.")
        if duration_s > 0:
            await self._extend(credential, sandbox, duration_s)

    async def _extend(self, credential: Credential, sandbox: Sandbox, duration_s: int) -> Sandbox:
        change = own_request(
            SetTimeout,
            lifetime_sec=duration_s,
            extend_only=True,
            lift_on_pause=True if sandbox.lift_on_pause else None,
        )
        return await self._time_limit_changes.set_timeout(credential, str(sandbox.sandbox_id), change)

    async def pause(self, credential: Credential, text_id: str, *, memory: bool) -> None:
        """Pause a running sandbox; returns when it is paused. Without `memory` only its disk is kept.

        Raises:
            NotFound. InvalidState: it does not run. Else the host's reason; it runs on.
        """
        found = await self.find(credential, text_id)
        await self._pauses.pause(credential, str(found.sandbox.sandbox_id), keep_memory=memory)

    async def connect(
        self, credential: Credential, text_id: str, timeout_s: int, *, memory: bool = True
    ) -> tuple[Sandbox, bool]:
        """Resume a sandbox if it is paused, and have it live so many seconds from now at least; returns whether it was resumed.

        Without `memory` one that is resumed boots from its disk.

        Raises:
            NotFound. InvalidRequest: the time. Else as `Resumes.ensure_running`.
        """
        _require_time(timeout_s)
        found = await self.find(credential, text_id)
        own_id = str(found.sandbox.sandbox_id)
        was_resumed = await self._resumes.ensure_running(
            credential, own_id, lifetime_sec=timeout_s, keep_memory=memory
        )
        # From when it runs, not from when it began to be resumed.
        return await self._extend(credential, found.sandbox, timeout_s), was_resumed

    async def resume(
        self, credential: Credential, text_id: str, timeout_s: int, *, auto_pause: bool | None, memory: bool
    ) -> Sandbox:
        """Resume a paused sandbox, which then lives so many seconds; `auto_pause` None: what happens then does not change.

        Raises:
            As `connect`. InvalidState: it is not paused.
        """
        _require_time(timeout_s)
        found = await self.find(credential, text_id)
        if found.sandbox.status is not State.PAUSED:
            raise InvalidState(f"Sandbox {found.sandbox.sandbox_id.without_prefix} is not paused.")
        on_expiry = None if auto_pause is None else "pause" if auto_pause else "kill"
        own_id = str(found.sandbox.sandbox_id)
        await self._resumes.ensure_running(
            credential, own_id, lifetime_sec=timeout_s, on_expiry=on_expiry, keep_memory=memory
        )
        return await self._extend(credential, found.sandbox, timeout_s)

    async def fork(
        self, credential: Credential, text_id: str, *, count: int, timeout_s: int
    ) -> list[Sandbox]:
        """Make copies of a running sandbox that live so many seconds; all of them or none.

        Raises:
            NotFound. InvalidRequest: the time. Else as `Forks.fork`.
        """
        _require_time(timeout_s)
        found = await self.find(credential, text_id)
        return await self._forks.fork(
            credential, str(found.sandbox.sandbox_id), count, lifetime_sec=timeout_s
        )

    async def set_network(self, credential: Credential, text_id: str, body: NetworkUpdate) -> None:
        """Replace what a sandbox may reach; returns when it is in force.

        Raises:
            NotFound. NotSupported, InvalidRequest: as `egress`. Else as `Networks.set_network`.
        """
        found = await self.find(credential, text_id)
        change = own_request(SetNetwork, **egress(body, allow_internet=body.allow_internet_access))
        await self._networks.set_network(credential, str(found.sandbox.sandbox_id), change)


def _require_time(timeout_s: int) -> None:
    if timeout_s <= 0:
        raise InvalidRequest("timeout: must be greater than 0.")


def _without_client_id(text_id: str) -> str:
    """Cut off what old clients append to an id: `<id>-<client>`."""
    return text_id.removeprefix("cl-").partition("-")[0]


def _own_create(body: NewSandboxV2, template: str) -> CreateSandbox:
    for name, value in (
        ("mcp", body.mcp),
        ("iam", body.iam),
        ("volumeMounts", body.volume_mounts),
    ):
        if value:
            raise NotSupported(f"{name} is not supported on this platform.")
    _require_time(body.timeout)
    if not body.auto_pause_memory:
        if not body.auto_pause:
            raise InvalidRequest("autoPauseMemory: false is of use with autoPause only.")
        if body.auto_resume and body.auto_resume.enabled:
            raise InvalidRequest("autoPauseMemory: false cannot be combined with autoResume.")
    return own_request(
        CreateSandbox,
        template=template,
        lifetime_sec=body.timeout,
        on_expiry="pause" if body.auto_pause else "kill",
        keep_memory_on_pause=body.auto_pause_memory,
        auto_resume=body.auto_resume is not None and body.auto_resume.enabled,
        # A paused sandbox has no end, whatever it was when it ran.
        lift_on_pause=True,
        resume_lifetime_sec=body.timeout,
        envs=body.env_vars,
        network=egress(body.network, allow_internet=body.allow_internet_access),
        metadata=body.metadata,
        **ingress(body.network),
    )
