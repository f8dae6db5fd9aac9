"""Credentials of registries: set, listed and removed by a team, and read for its builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import Conflict, InvalidRequest
from wrenn.base.ids import BuildId, TeamId
from wrenn.base.secrets import Secret
from wrenn.control.audit import Actor, AuditAction, Resource, Status, record
from wrenn.control.auth import Caller
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import lock_active_team
from wrenn.control.registries import store
from wrenn.control.registries.names import checked_registry, registry_of
from wrenn.control.registries.sealing import Sealing
from wrenn.control.registries.store import RegistryLogin
from wrenn.control.registries.types import SetRegistryCredentials

_LIMIT: Final = 50
"""Registries of one team."""


@dataclass(frozen=True, slots=True)
class ImageLogin:
    """User name and password with which one image is pulled."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class SealedLogin:
    """The same with the password encrypted for one build, which uses it for images of this registry."""

    registry: str
    username: str
    sealed_password: bytes


class RegistryCredentials:
    """The credentials that teams have for registries."""

    def __init__(self, *, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing

    async def set(self, caller: Caller, body: SetRegistryCredentials) -> RegistryLogin:
        """Set the credentials of a registry; those that the team had of it are replaced.

        Raises:
            Conflict: the team has credentials of too many registries.
        """
        password = Secret(body.password.get_secret_value())
        sealed = self._sealing.seal(password, caller.team_id, body.registry, body.username)

        async def put(tx: Transaction) -> RegistryLogin:
            await lock_active_team(tx, caller.team_id)
            if await store.count_others(tx, caller.team_id, body.registry) >= _LIMIT:
                raise Conflict(f"The team has credentials of {_LIMIT} registries: remove some first.")
            login = await store.put(tx, caller.team_id, body.registry, body.username, sealed, by=caller.actor)
            action = AuditAction(Resource.REGISTRY, "set_credentials", facts={"username": body.username})
            await record(tx, caller.team_id, caller.actor, action, body.registry)
            return login

        return await self._database.transaction(put)

    async def list(self, caller: Caller) -> list[RegistryLogin]:
        """Return what the team has, by registry, without passwords."""
        return await store.of_team(self._database, caller.team_id)

    async def remove(self, caller: Caller, text: str) -> None:
        """Remove the credentials of a registry. Does nothing if there are none.

        Raises:
            InvalidRequest: `text` is no name of a registry.
        """
        try:
            registry = checked_registry(text)
        except ValueError as error:
            raise InvalidRequest(f"registry: {error}.") from error

        async def remove(tx: Transaction) -> None:
            if await store.remove(tx, caller.team_id, registry):
                action = AuditAction(Resource.REGISTRY, "remove_credentials", Status.WARNING)
                await record(tx, caller.team_id, caller.actor, action, registry)

        await self._database.transaction(remove)

    async def remove_all(self, tx: Transaction, team_id: TeamId, _by: Actor) -> None:
        """Remove all credentials of a team that is deleted in this transaction."""
        await store.remove_of_team(tx, team_id)

    async def for_image(self, team_id: TeamId, reference: str) -> ImageLogin | None:
        """Return with what the team pulls this image; None: without any.

        Raises:
            InvalidState: the password cannot be decrypted.
        """
        registry = registry_of(reference)
        found = await store.sealed_of(self._database, team_id, registry)
        if found is None:
            return None
        username, sealed = found
        return ImageLogin(username, self._sealing.open(sealed, team_id, registry, username))

    def seal_for_build(
        self, login: ImageLogin, team_id: TeamId, build_id: BuildId, reference: str
    ) -> SealedLogin:
        """Encrypt a login for one build, which pulls this image with it in place of what the team has."""
        registry = registry_of(reference)
        bound = _registry_in_build(registry, build_id)
        return SealedLogin(
            registry, login.username, self._sealing.seal(login.password, team_id, bound, login.username)
        )

    def open_for_build(
        self, sealed: SealedLogin, team_id: TeamId, build_id: BuildId, reference: str
    ) -> ImageLogin | None:
        """Decrypt what `seal_for_build` returned for this build; None: the image is of another registry.

        Raises:
            InvalidState: the password cannot be decrypted.
        """
        if registry_of(reference) != sealed.registry:
            return None
        bound = _registry_in_build(sealed.registry, build_id)
        password = self._sealing.open(sealed.sealed_password, team_id, bound, sealed.username)
        return ImageLogin(sealed.username, password)


def _registry_in_build(registry: str, build_id: BuildId) -> str:
    return f"{registry} in {build_id}"
