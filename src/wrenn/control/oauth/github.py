"""Sign-in with GitHub: OAuth without OpenID Connect, so the identity comes from its API."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlencode

from wrenn.control.oauth.client import ProviderClient, ProviderFailed, text_of
from wrenn.control.oauth.identity import Identity, Start
from wrenn.control.oauth.settings import GithubSettings


class Github:
    """Sign-in with GitHub."""

    def __init__(self, settings: GithubSettings, client: ProviderClient) -> None:
        self._settings = settings
        self._client = client

    async def authorize_url(self, start: Start) -> str:
        """Return the URL at which the browser begins."""
        query = {
            "client_id": self._settings.key.client_id,
            "redirect_uri": start.redirect_uri,
            "scope": "user:email",
            "state": start.state,
            "code_challenge": start.challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._settings.url}/login/oauth/authorize?{urlencode(query)}"

    async def identify(self, start: Start, code: str) -> Identity:
        """Exchange the code for the identity of the user.

        Raises:
            ProviderFailed: also where there is no verified address.
        """
        key = self._settings.key
        form = {
            "client_id": key.client_id,
            "client_secret": key.client_secret.reveal(),
            "code": code,
            "redirect_uri": start.redirect_uri,
            "code_verifier": start.verifier,
        }
        answer = await self._client.post_form(f"{self._settings.url}/login/oauth/access_token", form)
        token = text_of(answer, "access_token")
        user = await self._client.get(f"{self._settings.api_url}/user", token=token)
        login = text_of(user, "login")
        number = user.get("id")
        if not isinstance(number, int):
            raise ProviderFailed(
                "The sign-in provider's answer is not understood.", context={"missing": "id"}
            )
        name = user.get("name")
        email = _primary(await self._client.get(f"{self._settings.api_url}/user/emails", token=token))
        # The address in the profile is whatever its owner wrote there; the list says which is verified.
        shown = name if isinstance(name, str) and name.strip() else login
        return Identity(str(number), email, shown, is_email_verified=True)


def _primary(emails: Any) -> str:
    if isinstance(emails, list):
        for entry in cast("list[Any]", emails):
            if isinstance(entry, dict):
                fields = cast("dict[str, Any]", entry)
                if fields.get("primary") is True and fields.get("verified") is True:
                    return text_of(fields, "email")
    raise ProviderFailed("Your GitHub account has no verified e-mail address.")
