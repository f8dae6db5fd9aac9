"""What users can do and API keys cannot: log in, create keys, manage teams. For tools such as the `wrenn` command."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final, Self

from wrenn.base.secrets import Secret
from wrenn.sdk._error_response import raise_for_status
from wrenn.sdk._messages import Answer, Request
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import UnexpectedAnswerError
from wrenn.sdk.settings import ClientSettings, account_settings

_COOKIES: Final = ("wrenn_refresh", "__Host-wrenn_refresh")
"""The refresh cookie, under its names for http and https."""
_TIMEOUT_S: Final = 60.0


class Account:
    """A user's session. The refresh token changes with each `resume`: store `refresh_token` immediately."""

    def __init__(self, settings: ClientSettings, answer: Answer) -> None:
        from wrenn.sdk._http import Transport  # noqa: PLC0415 - as in `api`

        fields = Fields("session", json_of(answer.body))
        self.email = fields.text("email")
        self.name = fields.text("name")
        self.user_id = fields.text("user_id")
        self.team_id = fields.text("team_id")
        self.refresh_token = _refresh_token(answer)
        self.base_url = settings.base_url
        self._token = Secret(fields.text("token"))
        self._transport = Transport(settings)

    @property
    def token(self) -> Secret:
        """The token of this session, which is valid for some minutes."""
        return self._token

    @classmethod
    def log_in(cls, base_url: str, email: str, password: Secret) -> Self:
        """Start a session.

        Raises:
            AuthenticationError: e-mail address or password is wrong.
            ForbiddenError: the account may not log in.
            RateLimitError: too many attempts.
        """
        body = {"email": email, "password": password.reveal()}
        return cls._entered(base_url, "/v1/auth/login", body, {})

    @classmethod
    def resume(cls, base_url: str, refresh_token: Secret) -> Self:
        """Continue a session. The given token is invalid afterwards.

        Raises:
            AuthenticationError: the session has ended.
        """
        # Only the platform knows by which of the names it expects the cookie, so send both.
        cookies = "; ".join(f"{name}={refresh_token.reveal()}" for name in _COOKIES)
        return cls._entered(base_url, "/v1/auth/refresh", {}, {"Cookie": cookies})

    @classmethod
    def _entered(cls, base_url: str, path: str, body: Mapping[str, str], headers: Mapping[str, str]) -> Self:
        settings = account_settings(base_url, request_timeout_s=_TIMEOUT_S)
        return cls(settings, _post(settings, path, body, headers))

    def call(
        self,
        method: str,
        path: str,
        json: object = None,
        params: Mapping[str, str] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> object:
        """Make one call with the user's token; return the JSON of the response, or None if it has none.

        Raises:
            WrennError: an error of the class for the response.
        """
        headers = {"Authorization": f"Bearer {self._token.reveal()}"}
        request = Request(method, path, json=json, params=params, headers=headers)
        answer = self._transport.exchange(request, timeout_s=timeout_s)
        raise_for_status(answer.status, answer.body, answer.request_id)
        return json_of(answer.body) if answer.body else None

    def switch(self, team_id: str) -> None:
        """Switch the session to another team of the user.

        Raises:
            NotFoundError, ForbiddenError: not a team of the user.
        """
        fields = Fields("session", self.call("POST", "/v1/auth/switch-team", {"team_id": team_id}))
        self.team_id = fields.text("team_id")
        self._token = Secret(fields.text("token"))

    def close(self) -> None:
        """Close the connection. The session remains valid."""
        self._transport.close()


def post_anonymously(base_url: str, path: str, body: Mapping[str, str]) -> None:
    """Make one call without credentials, for example to request a password reset mail.

    Raises:
        WrennError: an error of the class for the response.
    """
    _post(account_settings(base_url, request_timeout_s=_TIMEOUT_S), path, body, {})


def _post(settings: ClientSettings, path: str, body: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
    from wrenn.sdk._http import Transport  # noqa: PLC0415 - as in `api`

    transport = Transport(settings)
    try:
        request = Request("POST", path, json=dict(body), headers=headers)
        answer = transport.exchange(request, timeout_s=_TIMEOUT_S)
    finally:
        transport.close()
    raise_for_status(answer.status, answer.body, answer.request_id)
    return answer


def _refresh_token(answer: Answer) -> Secret:
    cookie = SimpleCookie()
    try:
        cookie.load(answer.set_cookie or "")
    except CookieError as error:
        raise UnexpectedAnswerError("The platform's answer has a cookie that cannot be read.") from error
    for name in _COOKIES:
        if name in cookie:
            return Secret(cookie[name].value)
    raise UnexpectedAnswerError("The platform's answer has no refresh token: is the base URL right?")
