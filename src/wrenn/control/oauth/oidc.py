"""Sign-in with any provider that speaks OpenID Connect: configured by its discovery document, verified by its signed identity token."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.errors import ClaimError, JoseError
from joserfc.jwk import KeySet

from wrenn.base.clock import Clock
from wrenn.control.oauth.client import ProviderClient, ProviderFailed, text_of
from wrenn.control.oauth.identity import Identity, Start
from wrenn.control.oauth.settings import OidcSettings

_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384"]
"""Of public keys only: with a shared secret, whoever has that secret could be anybody."""
_DISCOVERY_LIFE_S: Final = 600.0
_LEEWAY_S: Final = 60


class OpenIdConnect:
    """Sign-in with a provider that speaks OpenID Connect."""

    def __init__(self, settings: OidcSettings, client: ProviderClient, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._discovered: tuple[float, Any] | None = None
        self._discovering = asyncio.Lock()

    async def authorize_url(self, start: Start) -> str:
        """Return the URL at which the browser begins.

        Raises:
            ProviderFailed.
        """
        query = {
            "response_type": "code",
            "client_id": self._settings.key.client_id,
            "redirect_uri": start.redirect_uri,
            "scope": self._settings.scopes,
            "state": start.state,
            "nonce": start.nonce,
            "code_challenge": start.challenge,
            "code_challenge_method": "S256",
        }
        endpoint = text_of(await self._discovery(), "authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def identify(self, start: Start, code: str) -> Identity:
        """Exchange the code for the identity of the user.

        Raises:
            ProviderFailed: also where the identity token is not for us and this sign-in, or the address is not verified.
        """
        found = await self._discovery()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": start.redirect_uri,
            "code_verifier": start.verifier,
        }
        key = self._settings.key
        answer = await self._client.post_form(
            text_of(found, "token_endpoint"), form, basic=(key.client_id, key.client_secret.reveal())
        )
        claims = await self._claims(text_of(answer, "id_token"), text_of(found, "jwks_uri"), start.nonce)
        said: dict[str, Any] = dict(claims)
        if "email" not in said and isinstance(found.get("userinfo_endpoint"), str):
            more = await self._client.get(found["userinfo_endpoint"], token=text_of(answer, "access_token"))
            # It need not be signed, so it must at least be of the same person.
            if isinstance(more, dict) and more.get("sub") == claims["sub"]:  # pyright: ignore[reportUnknownMemberType]
                said = {**more, **said}
        email = text_of(said, "email")
        if said.get("email_verified") is False:
            raise ProviderFailed("The e-mail address is not verified at the sign-in provider.")
        name = said.get("name")
        return Identity(
            text_of(said, "sub"),
            email,
            name if isinstance(name, str) and name.strip() else email.partition("@")[0],
            is_email_verified=said.get("email_verified") is True,
        )

    async def _claims(self, id_token: str, jwks_uri: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an identity token that is valid for this client and this sign-in (OpenID Connect Core 1.0 §3.1.3.7)."""
        jwks = await self._client.get(jwks_uri)
        client_id = self._settings.key.client_id
        checks = jwt.JWTClaimsRegistry(
            now=int(self._clock.now().timestamp()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._settings.issuer},
            sub={"essential": True},
            aud={"essential": True, "value": client_id},
            exp={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = jwt.decode(id_token, KeySet.import_key_set(jwks), algorithms=_ALGORITHMS).claims
            checks.validate(claims)
        except ClaimError as error:
            raise _not_ours(error.claim) from error
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _not_ours("signature") from error
        if not isinstance(claims["nonce"], str):
            raise _not_ours("nonce")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:  # pyright: ignore[reportUnknownArgumentType]
            raise _not_ours("azp")
        return claims

    async def _discovery(self) -> Any:
        async with self._discovering:
            now = self._clock.monotonic()
            if self._discovered is None or now - self._discovered[0] > _DISCOVERY_LIFE_S:
                found = await self._client.get(self._settings.discovery_url)
                if text_of(found, "issuer").rstrip("/") != self._settings.issuer.rstrip("/"):
                    raise _not_ours("issuer of the discovery document")
                self._discovered = now, found
            return self._discovered[1]


def _not_ours(what: str) -> ProviderFailed:
    return ProviderFailed("The sign-in provider's answer is not for this sign-in.", context={"wrong": what})
