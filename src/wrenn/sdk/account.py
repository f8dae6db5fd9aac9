"""What a user does and API keys may not: log in, make keys, look after teams. For tools such as the `wrenn` command."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final, Self

from wrenn.base.secrets import Secret
from wrenn.sdk._messages import Answer, Request
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._refusal import check
from wrenn.sdk.errors import UnexpectedAnswerError
from wrenn.sdk.settings import ClientSettings, account_settings

_COOKIES: Final = ("wrenn_refresh", "__Host-wrenn_refresh")
"""The refresh cookie, and its name where the platform is reached over https."""
_TIMEOUT_S: Final = 60.0


class Account:
    """A user's session. The refresh token changes with each `resume`; keep `refresh_token` at once."""

    def __init__(self, settings: ClientSettings, answer: Answer) -> None:
        from wrenn.sdk._http import Transport  # noqa: PLC0415 - as in `api`

        fields = Fields("session", json_of(answer.body))
        self.email = fields.text("email")
        self.name = fields.text("name")
        self.user_id = fields.text("user_id")
        self.team_id = fields.text("team_id")
        self.refresh_token = _refresh_token(answer)
        self._token = Secret(fields.text("token"))
        self._transport = Transport(settings)

    @classmethod
    def log_in(cls, base_url: str, email: str, password: Secret) -> Self:
        """Begin a session.

        Raises:
            AuthenticationError: e-mail address or password are wrong. ForbiddenError, RateLimitError.
        """
        body = {"email": email, "password": password.reveal()}
        return cls._entered(base_url, "/v1/auth/login", body, {})

    @classmethod
    def resume(cls, base_url: str, refresh_token: Secret) -> Self:
        """Go on with a session. The token shown is not valid any more afterwards.

        Raises:
            AuthenticationError: the session has ended.
        """
        # Only the platform knows by which name people reach it; it looks at one of the two.
        cookies = "; ".join(f"{name}={refresh_token.reveal()}" for name in _COOKIES)
        return cls._entered(base_url, "/v1/auth/refresh", {}, {"Cookie": cookies})

    @classmethod
    def _entered(cls, base_url: str, path: str, body: Mapping[str, str], headers: Mapping[str, str]) -> Self:
        settings = account_settings(base_url, request_timeout_s=_TIMEOUT_S)
        return cls(settings, _post(settings, path, body, headers))

    def call(
        self, method: str, path: str, json: object = None, params: Mapping[str, str] | None = None
    ) -> object:
        """One call with the user's token; the answer's JSON, or None where it has none.

        Raises:
            WrennError: of the class that fits the answer.
        """
        headers = {"Authorization": f"Bearer {self._token.reveal()}"}
        request = Request(method, path, json=json, params=params, headers=headers)
        answer = self._transport.exchange(request, timeout_s=_TIMEOUT_S)
        check(answer.status, answer.body, answer.request_id)
        return json_of(answer.body) if answer.body else None

    def switch(self, team_id: str) -> None:
        """Be in another team of the user from now on.

        Raises:
            NotFoundError, ForbiddenError: not a team of the user.
        """
        fields = Fields("session", self.call("POST", "/v1/auth/switch-team", {"team_id": team_id}))
        self.team_id = fields.text("team_id")
        self._token = Secret(fields.text("token"))

    def close(self) -> None:
        """Close the connection. The session lasts."""
        self._transport.close()


def post_anonymously(base_url: str, path: str, body: Mapping[str, str]) -> None:
    """One call that needs no credentials, such as for a mail that resets a password.

    Raises:
        WrennError: of the class that fits the answer.
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
    check(answer.status, answer.body, answer.request_id)
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
