"""Endpoints for sign-up, login, refresh and logout. Each parses, makes one call, answers.

Cookies authenticate here, and only what pages of ours send; and where ports are visited (`proxy/access.py`).
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Cookie, Depends, Request
from fastapi.responses import JSONResponse, Response

from wrenn.base.errors import Unauthorized
from wrenn.control.auth import VISIT_LIFE_S, AccountOf, OptionalAccountOf
from wrenn.control.http import Browsers, DomainOf, refusals, service, service_of
from wrenn.control.sessions.link_login import LinkLogin
from wrenn.control.sessions.password_login import PasswordLogin
from wrenn.control.sessions.service import Sessions, SignedIn
from wrenn.control.sessions.types import AuthResponse, LogIn, LogInByLink, RefreshSession, SignUp, SwitchTeam
from wrenn.control.sessions.views import signed_in_json

REFRESH_COOKIE: Final = "wrenn_refresh"
COOKIE_PATH: Final = "/v1/auth"

router = APIRouter(tags=["authentication"])


class SessionCookies:
    """The cookies of a session, for the browser that sent this request."""

    def __init__(self, request: Request, domain: DomainOf) -> None:
        self.browsers = service_of(request, Browsers)
        self._request = request
        self._domain = domain

    def set(self, response: Response, signed_in: SignedIn) -> None:
        """Those of a session that just began or went on."""
        if signed_in.refresh is not None:
            text, life_s = signed_in.refresh.reveal(), signed_in.refresh_life_s
            self.browsers.set_cookie(response, REFRESH_COOKIE, text, path=COOKIE_PATH, life_s=life_s)
        self._set_visit(response, signed_in.visit.reveal(), VISIT_LIFE_S)

    def clear(self, response: Response) -> None:
        """The session has ended."""
        self.browsers.set_cookie(response, REFRESH_COOKIE, "", path=COOKIE_PATH, life_s=0)
        self._set_visit(response, "", 0)

    def _set_visit(self, response: Response, value: str, life_s: int) -> None:
        self.browsers.set_visit_cookie(self._request, response, value, domain=self._domain, life_s=life_s)


LinkLoginOf = Annotated[LinkLogin, service(LinkLogin)]
PasswordLoginOf = Annotated[PasswordLogin, service(PasswordLogin)]
SessionsOf = Annotated[Sessions, service(Sessions)]
CookiesOf = Annotated[SessionCookies, Depends()]


async def _refresh_cookie(
    request: Request,
    # Only for the description of the API: the framework would take the last one of several.
    _cookie: Annotated[
        str | None,
        Cookie(
            alias=REFRESH_COOKIE,
            description=f"As login and refresh set it; under https its name is `__Host-{REFRESH_COOKIE}`",
        ),
    ] = None,
) -> str | None:
    browsers = service_of(request, Browsers)
    return browsers.cookie(request, REFRESH_COOKIE)


RefreshCookie = Annotated[str | None, Depends(_refresh_cookie)]


async def _own_refresh_cookie(request: Request, cookie: RefreshCookie) -> str:
    # A dependency, as those come before the body is looked at: a form of another site is refused for being one.
    if cookie is None:
        raise Unauthorized("No refresh cookie: log in.")
    service_of(request, Browsers).expect_own_page(request)
    return cookie


OwnRefreshCookie = Annotated[str, Depends(_own_refresh_cookie)]


@router.post("/signup", status_code=201, response_model=AuthResponse, responses=refusals(403, 409, 429))
async def sign_up(
    request: Request, body: SignUp, password_login: PasswordLoginOf, cookies: CookiesOf
) -> Response:
    """Make an account, with a team of its own."""
    return _answer(await password_login.sign_up(body, cookies.browsers.address_of(request)), cookies, 201)


@router.post("/login", response_model=AuthResponse, responses=refusals(403, 429))
async def log_in(
    request: Request, body: LogIn, password_login: PasswordLoginOf, cookies: CookiesOf
) -> Response:
    """Begin a session, in the default team."""
    return _answer(await password_login.log_in(body, cookies.browsers.address_of(request)), cookies)


@router.post("/sign-in-link", response_model=AuthResponse, responses=refusals(403, 404, 429))
async def log_in_by_link(
    request: Request, body: LogInByLink, link_login: LinkLoginOf, cookies: CookiesOf
) -> Response:
    """Begin a session with the token of a link that `wrenn up` or `wrenn open` made. It works once, for ten minutes."""
    return _answer(await link_login.log_in(body.token, cookies.browsers.address_of(request)), cookies)


@router.post("/refresh", response_model=AuthResponse, responses=refusals(403, 404))
async def refresh_session(
    sessions: SessionsOf, cookies: CookiesOf, cookie: OwnRefreshCookie, body: RefreshSession | None = None
) -> Response:
    """A new token, and a new refresh cookie in place of the one shown, which is not valid any more.

    Shown again it ends the session, as somebody has a copy. Needs `Content-Type: application/json`.
    """
    return _answer(await sessions.refresh(cookie, body and body.team_id), cookies)


@router.post("/logout", status_code=204, responses=refusals(403))
async def log_out(
    request: Request,
    account: OptionalAccountOf,
    sessions: SessionsOf,
    cookies: CookiesOf,
    cookie: RefreshCookie,
) -> Response:
    """End the session of the token, of the refresh cookie, or of both. With a cookie: `Content-Type: application/json`."""
    if account is None and cookie is None:
        raise Unauthorized("There is no session: send its token or its refresh cookie.")
    if cookie is not None:
        cookies.browsers.expect_own_page(request)
    await sessions.end(session_id=account and account.session_id, cookie=cookie)
    response = Response(status_code=204)
    cookies.clear(response)
    return response


@router.post("/switch-team", response_model=AuthResponse, responses=refusals(403, 404))
async def switch_team(
    body: SwitchTeam, account: AccountOf, sessions: SessionsOf, cookies: CookiesOf
) -> Response:
    """A token for another team of the user; the session is for that team from now on."""
    return _answer(await sessions.switch(account, body.team_id), cookies)


def _answer(signed_in: SignedIn, cookies: SessionCookies, status: int = 200) -> Response:
    response = JSONResponse(signed_in_json(signed_in), status, {"Cache-Control": "no-store"})
    cookies.set(response, signed_in)
    return response
