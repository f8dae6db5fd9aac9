"""Who may visit a port: whoever has a key of the sandbox's team, a link, or a session of a member; everybody, where it is public.

Of a sandbox that is not theirs, visitors learn nothing: with a key of another team it does not exist, and without any credential
it is the same whether it exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.clock import Clock
from wrenn.base.errors import Forbidden, NotFound, Unauthorized
from wrenn.control.auth import SYSTEM, Actor, ApiKey, Authenticator, Caller, Credential, Tokens
from wrenn.control.auth import Access as Deed
from wrenn.control.http import digest_of
from wrenn.control.proxy.links import LinkSigner
from wrenn.control.proxy.places import Place, Places
from wrenn.control.proxy.recent import Recent
from wrenn.control.proxy.visits import Aim, Visit


@dataclass(frozen=True, slots=True)
class Admission:
    """May visit.

    Attributes:
        visitor: whom the audit log names, if the visit resumes the sandbox.
        cookie_s: the visitor came by a link that is good for so long; 0: by something else.
        is_public: everybody may visit.
        right: the credential that lets the visitor in, and whose it is; None: a link or a public port does.
    """

    place: Place
    visitor: Actor = SYSTEM
    cookie_s: int = 0
    is_public: bool = False
    right: tuple[Credential, Caller] | None = None


class Access:
    """See the module head."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        places: Places,
        signer: LinkSigner,
        clock: Clock,
        tokens: Tokens,
    ) -> None:
        self._authenticator = authenticator
        self._places = places
        self._signer = signer
        self._tokens = tokens
        self._callers = Recent[Credential, Caller](authenticator.identify, clock)

    async def admit(self, visit: Visit, aim: Aim) -> Admission:
        """Let the visitor in.

        Raises:
            Unauthorized: no credential, or none that is good. NotFound: no sandbox of the caller's team.
        """
        if visit.key is not None:
            key = ApiKey.parse(visit.key, Deed.CHANGE_SANDBOXES)
            caller = await self._callers.get(key)
            self._authenticator.accept(caller)
            place = await self._places.find(aim.sandbox_id)
            if place is None or place.sandbox.team_id != caller.team_id:
                raise NotFound(f"There is no sandbox {aim.sandbox_id}.")
            return Admission(place, caller.actor, right=(key, caller))
        place = await self._places.find(aim.sandbox_id)
        if place is not None and not aim.is_tunnel:
            if left_s := self._signer.seconds_left(visit.link, aim.sandbox_id, aim.port):
                return Admission(place, cookie_s=left_s)
            if aim.port in place.sandbox.public_ports:
                return Admission(place, is_public=True)
            if not visit.is_foreign:
                if self._signer.seconds_left(visit.cookie, aim.sandbox_id, aim.port):
                    return Admission(place)
                right = await self._person(visit.session) if visit.session else None
                if right is not None and right[1].team_id == place.sandbox.team_id:
                    return Admission(place, right[1].actor, right=right)
        if visit.link:
            raise Unauthorized("This link has expired or is not whole. Ask for a new one.")
        raise Unauthorized(
            "This port is not public: open it by a link of its owner, or send an API key in the header X-API-Key."
        )

    def unproved(self, visit: Visit, aim: Aim) -> bytes | None:
        """A digest of the credential that must be looked up for this visit; None: it shows none, or one that is signed by us."""
        if visit.key is not None:
            return digest_of(visit.key.encode("latin-1"))
        if self._signer.seconds_left(visit.link or visit.cookie, aim.sandbox_id, aim.port):
            return None
        if visit.link:
            return digest_of(visit.link, kind=b"link")
        if visit.is_foreign:
            # Its cookies are not looked at: a hostile page must not use up the guesses of its reader.
            return None
        shown = visit.session or visit.cookie
        return digest_of(shown, kind=b"cookie") if shown else None

    async def _person(self, text: bytes) -> tuple[Credential, Caller] | None:
        """Who is signed in, for the team of the session, and by what; None: nobody, or not any more."""
        try:
            token = self._tokens.read_visit(text.decode("latin-1"))
            return token, await self._callers.get(token)
        except (Unauthorized, Forbidden):
            return None

    def forget_all(self) -> None:
        """A key may have gone."""
        self._callers.forget_all()
