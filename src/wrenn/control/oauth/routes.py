"""Endpoints to sign in through a provider. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from wrenn.control.auth import AccountOf
from wrenn.control.http import Browsers, refusals, service
from wrenn.control.oauth.flow import SignIn
from wrenn.control.oauth.ticket import TICKET_LIFE_S
from wrenn.control.sessions import CookiesOf

STATE_COOKIE: Final = "oauth_state"

router = APIRouter(tags=["authentication"])
connect_router = APIRouter(tags=["account"])


class SignInOptions(BaseModel):
    """The ways to sign in."""

    providers: list[str] = Field(description="Names for `/v1/auth/oauth/{provider}`")
    signup_open: bool = Field(description="Anybody may make an account")


class AuthUrl(BaseModel):
    """Where the browser goes."""

    auth_url: str


Service = Annotated[SignIn, service(SignIn)]
BrowsersOf = Annotated[Browsers, service(Browsers)]
REDIRECT: Final = {302: {"description": "The browser goes on to the address in `Location`"}}


@router.get("", response_model=SignInOptions)
async def list_ways_in(sign_in: Service) -> Response:
    """The sign-in providers, and whether sign-up is open. Needs no credentials."""
    return JSONResponse({"providers": sign_in.names, "signup_open": sign_in.signup_open})


@router.get(
    "/{provider}", status_code=302, response_class=RedirectResponse, responses=REDIRECT | refusals(404, 502)
)
async def begin_sign_in(provider: str, sign_in: Service, browsers: BrowsersOf) -> Response:
    """Send the browser to the provider. Needs no credentials."""
    redirect = await sign_in.begin(provider)
    response = RedirectResponse(redirect.url, 302, {"Cache-Control": "no-store"})
    browsers.set_cookie(response, STATE_COOKIE, redirect.cookie, path="/", life_s=TICKET_LIFE_S)
    return response


@router.get(
    "/{provider}/callback",
    status_code=302,
    response_class=RedirectResponse,
    responses=REDIRECT | refusals(404),
)
async def finish_sign_in(
    request: Request,
    provider: str,
    sign_in: Service,
    browsers: BrowsersOf,
    *,
    cookies: CookiesOf,
    code: Annotated[str | None, Query()] = None,
    state: Annotated[str | None, Query()] = None,
    error: Annotated[str | None, Query()] = None,
) -> Response:
    """Where the provider sends the browser back to. Goes on to the dashboard, with a refresh cookie, or with `?error=`."""
    cookie = browsers.cookie(request, STATE_COOKIE)
    result = await sign_in.finish(provider, cookie=cookie, code=code, state=state, refusal=error)
    response = RedirectResponse(result.url, 302, {"Cache-Control": "no-store"})
    browsers.set_cookie(response, STATE_COOKIE, "", path="/", life_s=0)
    if result.signed_in is not None:
        cookies.set(response, result.signed_in)
    return response


@connect_router.get("/{provider}/connect", response_model=AuthUrl, responses=refusals(403, 404, 502))
async def connect_provider(
    provider: str, account: AccountOf, sign_in: Service, browsers: BrowsersOf
) -> Response:
    """Begin to link a provider to the own account: the browser goes to `auth_url` with the cookie of this answer."""
    redirect = await sign_in.begin(provider, account)
    response = JSONResponse({"auth_url": redirect.url}, 200, {"Cache-Control": "no-store"})
    browsers.set_cookie(response, STATE_COOKIE, redirect.cookie, path="/", life_s=TICKET_LIFE_S)
    return response
