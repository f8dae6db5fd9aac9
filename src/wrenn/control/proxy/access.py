"""Decides who may visit a port: API keys of the sandbox's team, links, sessions of members; everybody, if it is public.

Visitors learn nothing about sandboxes of others: with the key of another team the response is "not found", and without a credential
the response does not depend on whether the sandbox exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.clock import Clock
from wrenn.base.errors import Forbidden, InvalidState, NotFound, Unauthorized
from wrenn.control.auth import SYSTEM, Actor, ApiKey, Authenticator, Caller, Credential, Operation, Tokens
from wrenn.control.http import digest_of
from wrenn.control.proxy.access_tokens import AccessTokens, TrafficTokens
from wrenn.control.proxy.links import LinkSigner
from wrenn.control.proxy.locations import SandboxLocation, SandboxLocations
from wrenn.control.proxy.lookup_cache import LookupCache
from wrenn.control.proxy.port_target import PortTarget
from wrenn.control.proxy.request_head import Visit
from wrenn.control.sandboxes import Lookup, SandboxOfBuild
from wrenn.protocol.guest_agent import CODE_INTERPRETER_PORT


@dataclass(frozen=True, slots=True)
class Admission:
    """The visitor may visit the port.

    Attributes:
        visitor: the actor in the audit log, if the visit resumes the sandbox.
        cookie_s: seconds for which the link of the visit is still valid; 0: the visit was not by a link.
        ends_in_s: the same, also for a visit with the cookie of a link; 0: it has no end of its own.
        is_public: everybody may visit.
        may_resume: a sandbox that is paused is resumed for the visit, if it has `auto_resume`.
        is_signed: the visit is by a signed URL of a file.
        has_token: the visitor has a token of the sandbox, which only its owner's clients have.
        grant: the credential that admits the visitor, and its caller; None: a link, a cookie of a link or a public port does.
    """

    location: SandboxLocation
    visitor: Actor = SYSTEM
    cookie_s: int = 0
    ends_in_s: int = 0
    is_public: bool = False
    may_resume: bool = True
    is_signed: bool = False
    has_token: bool = False
    grant: tuple[Credential, Caller] | None = None

    @property
    def is_of_stranger(self) -> bool:
        """Whether the visitor has shown nothing that only the sandbox's team has."""
        return self.grant is None and not self.has_token


class PortAccess:
    """Decides who may visit a port of a sandbox."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        locations: SandboxLocations,
        lookup: Lookup,
        signer: LinkSigner,
        clock: Clock,
        tokens: Tokens,
        access_tokens: AccessTokens,
        traffic_tokens: TrafficTokens,
    ) -> None:
        self._authenticator = authenticator
        self._locations = locations
        self._lookup = lookup
        self._signer = signer
        self._tokens = tokens
        self._access_tokens = access_tokens
        self._traffic_tokens = traffic_tokens
        self._clock = clock
        self._callers = LookupCache[Credential, Caller](authenticator.identify, clock)

    async def admit(self, visit: Visit, target: PortTarget) -> Admission:
        """Check the visitor's credential, link or cookie against the port.

        Raises:
            Unauthorized: no valid credential. NotFound: no sandbox of the caller's team. SandboxOfBuild: only its build may use it.
        """
        admission = await self._admitted(visit, target)
        try:
            await self._lookup.require_build_ended(admission.location.sandbox)
        except SandboxOfBuild as error:
            if admission.grant is not None:
                raise
            # Strangers do not learn of builds.
            raise InvalidState(f"Sandbox {target.sandbox_id} cannot be visited now.") from error
        return admission

    async def _admitted(self, visit: Visit, target: PortTarget) -> Admission:
        if target.is_guest_agent and self._access_tokens.matches(visit.access_token, target.sandbox_id):
            return Admission(await self._existing(target), has_token=True)
        if visit.key is not None:
            key = ApiKey.parse(visit.key, Operation.WRITE_SANDBOXES)
            caller = await self._callers.get(key)
            self._authenticator.accept(caller)
            location = await self._existing(target)
            if location.sandbox.team_id != caller.team_id:
                raise NotFound(f"There is no sandbox {target.sandbox_id}.")
            return Admission(location, caller.actor, grant=(key, caller))
        if target.is_guest_agent:
            self._require_open_call(visit, target)
            return Admission(
                await self._existing(target), may_resume=False, is_signed=not visit.is_health_check
            )
        location = await self._locations.find(target.sandbox_id)
        if location is None and target.is_e2b:
            raise NotFound(f"There is no sandbox {target.sandbox_id}.")
        if location is not None and not target.is_tunnel:
            if left_s := self._signer.seconds_left(visit.link, target.sandbox_id, target.port):
                return Admission(location, cookie_s=left_s, ends_in_s=left_s)
            if self._may_run_code(visit, target):
                return Admission(location, has_token=True)
            if location.sandbox.ingress.is_public(target.port) and not self._needs_code_token(
                visit, target, location
            ):
                return Admission(location, is_public=True)
            if self._traffic_tokens.matches(visit.traffic_token, target.sandbox_id):
                return Admission(location, has_token=True)
            if not visit.is_foreign:
                if left_s := self._signer.seconds_left(visit.cookie, target.sandbox_id, target.port):
                    return Admission(location, ends_in_s=left_s)
                grant = await self._person(visit.session) if visit.session else None
                if grant is not None and grant[1].team_id == location.sandbox.team_id:
                    return Admission(location, grant[1].actor, grant=grant)
        if visit.link:
            raise Unauthorized("This link has expired or is not whole. Ask for a new one.")
        raise Unauthorized(
            "This port is not public: open it by a link of its owner, or send an API key in the header X-API-Key."
        )

    def _may_run_code(self, visit: Visit, target: PortTarget) -> bool:
        return (
            target.port == CODE_INTERPRETER_PORT
            and visit.may_be_code_run
            and self._access_tokens.matches(visit.access_token, target.sandbox_id)
        )

    @staticmethod
    def _needs_code_token(visit: Visit, target: PortTarget, location: SandboxLocation) -> bool:
        """Return whether the visit would run code, which not everybody may who knows the address of another port of the sandbox."""
        meant = target.port in location.sandbox.ingress.public_ports
        return target.port == CODE_INTERPRETER_PORT and visit.may_be_code_run and not meant

    async def _existing(self, target: PortTarget) -> SandboxLocation:
        location = await self._locations.find(target.sandbox_id)
        if location is None:
            raise NotFound(f"There is no sandbox {target.sandbox_id}.")
        return location

    def _require_open_call(self, visit: Visit, target: PortTarget) -> None:
        """Check that a visit of the guest agent that has neither token nor key is signed, or is one that everybody may make.

        Raises:
            Unauthorized: it is neither.
        """
        if visit.is_health_check:
            return
        if visit.file is None or (visit.access_token and not visit.file.signature):
            raise Unauthorized(
                "The access token of the sandbox is missing or wrong: send it in the header X-Access-Token."
            )
        if not visit.file.signature:
            raise Unauthorized("missing signature query parameter")
        if not visit.file.is_signed_with(self._access_tokens.of(target.sandbox_id)):
            raise Unauthorized("invalid signature")
        if visit.file.has_expired(self._clock.now().timestamp()):
            raise Unauthorized("signature is already expired")

    def verified_credential(self, visit: Visit, target: PortTarget) -> bytes | None:
        """Return a digest of the visit's token of the sandbox, which is verified without a look-up; None: it has none that is right."""
        if target.is_guest_agent:
            token, tokens = visit.access_token, self._access_tokens
        else:
            token, tokens = visit.traffic_token, self._traffic_tokens
        return digest_of(token, kind=b"sandbox token") if tokens.matches(token, target.sandbox_id) else None

    def unverified_credential(self, visit: Visit, target: PortTarget) -> bytes | None:
        """Return a digest of the credential that must be looked up for this visit; None: there is none, or it is a valid link, which needs no lookup."""
        if visit.key is not None:
            return digest_of(visit.key.encode("latin-1"))
        if target.is_guest_agent:
            return self._guest_agent_credential(visit, target)
        if self._signer.seconds_left(visit.link or visit.cookie, target.sandbox_id, target.port):
            return None
        if visit.traffic_token:
            return digest_of(visit.traffic_token, kind=b"sandbox token")
        if visit.is_foreign:
            # Its cookies are ignored, and a link in it is no guess: a hostile page must not use up the failed attempts that its reader is allowed.
            return None
        if visit.link:
            return digest_of(visit.link, kind=b"link")
        shown = visit.session or visit.cookie
        return digest_of(shown, kind=b"cookie") if shown else None

    def _guest_agent_credential(self, visit: Visit, target: PortTarget) -> bytes | None:
        try:
            self._require_open_call(visit, target)
        except Unauthorized:
            pass
        else:
            return None
        signature = b"" if visit.file is None or visit.is_foreign else visit.file.signature
        if visit.file is not None and visit.file.is_signed_with(self._access_tokens.of(target.sandbox_id)):
            signature = b""  # right but expired, which is no guess
        shown = visit.access_token or signature
        return digest_of(shown, kind=b"sandbox token") if shown else None

    async def _person(self, text: bytes) -> tuple[Credential, Caller] | None:
        """Return the credential and caller of a signed-in visitor; None: not signed in, or not any more."""
        try:
            token = self._tokens.read_visit(text.decode("latin-1"))
            return token, await self._callers.get(token)
        except (Unauthorized, Forbidden):
            return None

    def forget_all(self) -> None:
        """Drop all cached callers: an API key may have been revoked."""
        self._callers.forget_all()
