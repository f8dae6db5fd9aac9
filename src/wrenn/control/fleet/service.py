"""Hosts as users deal with them: what each may see and do, and deletion with everything that lies on a host.

Admins of the platform may see and do everything; members of a team see its own (BYOC) hosts and edit their tags; its owner
and admins create, drain and delete them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from wrenn.base.errors import Conflict, Forbidden, InvalidRequest, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, SandboxId, TeamId, UserId, random_hex
from wrenn.base.secrets import Secret
from wrenn.control.audit import Actor, AuditAction, Scope, Status, record
from wrenn.control.auth import Member
from wrenn.control.db import Database, Transaction
from wrenn.control.fleet.types import CreateHost, ExplainPlacement
from wrenn.control.hosts import (
    TAG,
    TAGS_LIMIT,
    HostRecord,
    HostStatus,
    NewHost,
    credential_store,
    host_action,
    record_store,
)
from wrenn.control.placement import Verdict, Wanted
from wrenn.control.sandboxes import Capacity, Deletions
from wrenn.control.snapshots import Snapshots
from wrenn.control.teams import team_store

T = TypeVar("T")

_HOSTS_PER_TEAM: Final = 1000
_HEARD_WITHIN_S: Final = 90.0
"""Three heartbeats: an agent that sent none for so long has no credentials that are accepted, or is gone.

Not `missing_after_s` of the settings, which says when sandboxes are `missing`: it may be long, and this is about the agent alone."""


class HostHasSandboxes(Conflict):
    """The host has sandboxes that have not ended, or templates; only a forced deletion ends and deletes them."""

    code = "has_active_sandboxes"


@dataclass(frozen=True, slots=True)
class HostContents:
    """What is lost when a host is deleted: sandboxes that have not ended, and templates."""

    sandbox_ids: Sequence[SandboxId]
    template_names: Sequence[str]

    @property
    def details(self) -> dict[str, object]:
        """The fields of the API for it."""
        return {
            "sandbox_ids": [str(sandbox_id) for sandbox_id in self.sandbox_ids],
            "template_names": list(self.template_names),
        }


def created(host: HostRecord) -> AuditAction:
    """The host was created."""
    return host_action("create", facts={"name": host.name, "type": host.type.value})


class Fleet:
    """Creates, lists, tags and deletes hosts, and issues their registration tokens."""

    def __init__(
        self, *, database: Database, capacity: Capacity, deletions: Deletions, snapshots: Snapshots
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._deletions = deletions
        self._snapshots = snapshots

    async def create(self, member: Member, body: CreateHost) -> tuple[HostRecord, Secret]:
        """Create a host and a token with which its agent registers.

        Raises:
            Forbidden: not an admin of the platform, or of the team; the team may not bring hosts.
            InvalidRequest, NotFound: of the team. Conflict: the name is taken, or the team has too many hosts.
        """
        team_id = _team_of(member, body)
        name = body.name or f"host-{random_hex(4)}"

        async def create(tx: Transaction) -> tuple[HostRecord, Secret]:
            if team_id is not None:
                team = await team_store.lock(tx, team_id)
                if not team.is_byoc:
                    raise Forbidden("The team may not bring its own hosts: ask an admin of the platform.")
                if await record_store.count_of_team(tx, team_id) >= _HOSTS_PER_TEAM:
                    raise Conflict(
                        f"A team may have at most {_HOSTS_PER_TEAM} hosts: delete one that is not needed any more."
                    )
            new = NewHost(name, team_id, body.provider, body.availability_zone)
            host = await record_store.insert_host(tx, new, by=member.user_id)
            if host is None:
                raise Conflict(
                    f"There is already a host named {name}: choose another name, or issue a new token for that host "
                    f"(`wrenn hosts token {name}`)."
                )
            await record(tx, host.log_team, member.actor, created(host), str(host.host_id))
            token = await credential_store.issue_registration_token(tx, host.host_id, by=member.user_id)
            return host, token

        return await self._database.transaction(create)

    async def list(self, member: Member) -> Sequence[HostRecord]:
        """Return the hosts that the user may see, oldest first."""
        return await record_store.visible(self._database, _sees(member))

    async def get(self, member: Member, text_id: str) -> HostRecord:
        """Return a host.

        Raises:
            NotFound: there is no such host, or the user may not see it.
        """
        host_id = HostId.parse(text_id)
        host = await record_store.find(self._database, host_id, _sees(member))
        if host is None:
            raise _not_found(host_id)
        return host

    async def explain_placement(self, query: ExplainPlacement) -> tuple[Wanted, Sequence[Verdict]]:
        """Say for each host why a sandbox would not be placed there, or how well it suits. For admins of the platform.

        Raises:
            NotFound: there is no such team.
        """
        team_id = None if query.team_id is None else TeamId.parse(query.team_id)
        team = None if team_id is None else await team_store.load(self._database, team_id)
        if team_id is not None and team is None:
            raise NotFound(f"There is no team {team_id}.")
        return await self._capacity.explain(
            Wanted(
                query.template,
                query.vcpus,
                query.memory_mb,
                query.disk_size_mb,
                host_tags=frozenset(query.host_tags),
                team_id=team_id,
                on_own_hosts=team is not None and team.is_byoc,
            )
        )

    async def preview_deletion(self, member: Member, text_id: str) -> tuple[HostRecord, HostContents]:
        """Return a host and what would be lost with it. Raises as `get`."""
        host = await self.get(member, text_id)
        return host, await self._database.transaction(lambda tx: self._contents(tx, host.host_id))

    async def delete(self, member: Member, text_id: str, *, force: bool) -> None:
        """Delete a host: its credentials stop working at once. Forced, its sandboxes end and its snapshots are gone.

        The agent learns it with its next heartbeat and removes what it has.

        Raises:
            NotFound, Forbidden. HostHasSandboxes: not forced, and it has sandboxes or templates.
        """
        host = await self.get(member, text_id)
        expect_admin(member, host)

        async def delete(tx: Transaction) -> None:
            # First, as for creates: what is placed on the host is committed before, and found; afterwards nothing is.
            await self._capacity.lock(tx)
            now = await lock_host(tx, host.host_id)
            contents = await self._contents(tx, now.host_id)
            if (contents.sandbox_ids or contents.template_names) and not force:
                raise HostHasSandboxes(
                    f"Host {now.host_id} has {len(contents.sandbox_ids)} sandboxes that have not ended and "
                    f"{len(contents.template_names)} templates, which would be lost: remove them, or use force=true.",
                    details=contents.details,
                )
            await self._delete(tx, [now], member.actor)
            await fault_point("control.host_delete.before_commit")

        await self._capacity.transaction(delete)
        await fault_point("control.host_delete.after_commit")
        self._deletions.wake()

    async def remove_all(self, tx: Transaction, team_id: TeamId, by: Actor) -> None:
        """Delete the hosts of a team that is deleted in this transaction, whose lock keeps its sandboxes from being placed."""
        hosts = await record_store.lock_of_team(tx, team_id)
        await self._delete(tx, hosts, by)

    async def issue_token(self, member: Member, text_id: str, *, force: bool) -> tuple[HostRecord, Secret]:
        """Issue another registration token; the one before stops working.

        Forced, also for a host that is online, all of whose credentials stop working. A host that is reached and sends no
        heartbeats needs no force: they may be refused, as after a restore of the database.

        Raises:
            NotFound, Forbidden. InvalidRequest: the host is online, and it is not forced.
        """
        host = await self.get(member, text_id)
        expect_admin(member, host)

        async def issue(tx: Transaction) -> tuple[HostRecord, Secret]:
            now = await lock_host(tx, host.host_id)
            if force:
                await credential_store.revoke_all(tx, [now.host_id])
                await credential_store.withdraw_certificate(tx, now.host_id)
            elif now.status is HostStatus.ONLINE and await record_store.is_heard(
                tx, now.host_id, within_s=_HEARD_WITHIN_S
            ):
                raise InvalidRequest(
                    f"Host {now.host_id} is online: stop its agent and wait {_HEARD_WITHIN_S:.0f} s, or use "
                    "force=true, which revokes its credentials at once."
                )
            token = await issue_registration_token(
                tx, now, member.actor, by=member.user_id, revokes_credentials=force
            )
            return now, token

        return await self._database.transaction(issue)

    async def tags(self, member: Member, text_id: str) -> Sequence[str]:
        """Return the tags of a host. Raises as `get`."""
        return (await self.get(member, text_id)).tags

    async def add_tag(self, member: Member, text_id: str, tag: str) -> None:
        """Give a host a tag; does nothing if it has it.

        Raises:
            NotFound. Conflict: it has as many as one may have.
        """

        async def add(tx: Transaction, host: HostRecord) -> None:
            if tag in host.tags:
                return
            if len(host.tags) >= TAGS_LIMIT:
                raise Conflict(f"A host may have {TAGS_LIMIT} tags.")
            await record_store.insert_tag(tx, host.host_id, tag)
            await _record_tag(tx, host, member.actor, "add_tag", tag)

        await self._change(member, text_id, add)

    async def remove_tag(self, member: Member, text_id: str, tag: str) -> None:
        """Take a tag from a host; does nothing if it does not have it.

        Raises:
            NotFound: of the host. InvalidRequest: no tag can be so.
        """
        if TAG.fullmatch(tag) is None:
            raise InvalidRequest("tag: must be 1 to 64 of a-z, 0-9, '.', '_' and '-'.")

        async def remove(tx: Transaction, host: HostRecord) -> None:
            if tag in host.tags:
                await record_store.delete_tag(tx, host.host_id, tag)
                await _record_tag(tx, host, member.actor, "remove_tag", tag)

        await self._change(member, text_id, remove)

    async def _change(
        self, member: Member, text_id: str, change: Callable[[Transaction, HostRecord], Awaitable[T]]
    ) -> T:
        """Run `change` under the lock of a host that the user may see."""
        host = await self.get(member, text_id)

        async def work(tx: Transaction) -> T:
            return await change(tx, await lock_host(tx, host.host_id))

        return await self._database.transaction(work)

    async def _contents(self, tx: Transaction, host_id: HostId) -> HostContents:
        active = await self._deletions.active_on_host(tx, host_id)
        return HostContents(active, await self._snapshots.names_on_host(tx, host_id))

    async def _delete(self, tx: Transaction, hosts: Collection[HostRecord], by: Actor) -> None:
        """Delete locked hosts with everything that lies on them."""
        if not hosts:
            return
        ids = [host.host_id for host in hosts]
        await record_store.mark_deleted(tx, ids)
        await credential_store.revoke_all(tx, ids)
        await self._deletions.end_all_on_hosts(tx, ids, by)
        await self._snapshots.remove_all_on_hosts(tx, ids, by)
        for host in hosts:
            action = host_action("delete", Status.WARNING, facts={"name": host.name})
            await record(tx, host.log_team, by, action, str(host.host_id))


async def lock_host(tx: Transaction, host_id: HostId) -> HostRecord:
    """Return a host, locked until this transaction ends.

    Raises:
        NotFound: there is no such host.
    """
    host = await record_store.lock(tx, host_id)
    if host is None:
        raise _not_found(host_id)
    return host


async def issue_registration_token(
    tx: Transaction, host: HostRecord, actor: Actor, *, by: UserId | None, revokes_credentials: bool = False
) -> Secret:
    """Issue a registration token for a locked host, with an entry in the audit log.

    `by`: a user, who is the actor then. `revokes_credentials`: the caller does, in this transaction.
    """
    facts = {"revokes_credentials": True} if revokes_credentials else None
    issued = host_action("token", Status.INFO, facts=facts)
    await record(tx, host.log_team, actor, issued, str(host.host_id))
    return await credential_store.issue_registration_token(tx, host.host_id, by=by)


async def _record_tag(tx: Transaction, host: HostRecord, by: Actor, action: str, tag: str) -> None:
    scope = Scope.ADMIN if host.team_id is None else Scope.TEAM
    entry = host_action(action, Status.INFO, scope, facts={"tag": tag})
    await record(tx, host.log_team, by, entry, str(host.host_id))


def _sees(member: Member) -> TeamId | None:
    """Return whose hosts the user may see; None: all."""
    return None if member.account.is_admin else member.team_id


def expect_admin(member: Member, host: HostRecord) -> None:
    """Return if the user may create, drain and delete the host, which is one that the user may see.

    Raises:
        Forbidden: the user may not.
    """
    if not member.account.is_admin and (host.team_id != member.team_id or not member.role.may_administer):
        raise Forbidden("This needs an admin or the owner of the host's team.")


def _team_of(member: Member, body: CreateHost) -> TeamId | None:
    """Return whose the new host is; None: the platform's."""
    if body.type == "regular":
        if body.team_id is not None:
            raise InvalidRequest("team_id: is for hosts of the type byoc.")
        if not member.account.is_admin:
            raise Forbidden("A regular host needs an admin of the platform.")
        return None
    if body.team_id is None:
        raise InvalidRequest("team_id: is needed for a host of the type byoc.")
    team_id = TeamId.parse(body.team_id)
    if member.account.is_admin:
        return team_id
    if team_id != member.team_id:
        raise Forbidden("The token is for another team: use switch-team first.")
    if not member.role.may_administer:
        raise Forbidden("This needs an admin or the owner of the team.")
    return team_id


def _not_found(host_id: HostId) -> NotFound:
    return NotFound(f"There is no host {host_id}.")
