"""Endpoints for the owner of an e-mail address, who need not be logged in. Each parses the request, makes one call and responds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from wrenn.base.secrets import Secret
from wrenn.control.account_mail import Purpose
from wrenn.control.http import Browsers, refusals, service, service_of
from wrenn.control.password_reset.service import PasswordReset
from wrenn.control.password_reset.types import RequestMail, ResetPassword, VerifyEmail

router = APIRouter(tags=["authentication"])


async def _client(request: Request) -> str:
    browsers = service_of(request, Browsers)
    return browsers.address_of(request)


Service = Annotated[PasswordReset, service(PasswordReset)]
Client = Annotated[str, Depends(_client)]


@router.post("/verify-email", status_code=204, responses=refusals(404))
async def verify_email(body: VerifyEmail, password_reset: Service, client: Client) -> Response:
    """Verify the e-mail address to which the token was sent. It works once, for 24 hours."""
    await password_reset.verify_email(body.token, client)
    return Response(status_code=204)


@router.post("/verify-email/resend", status_code=202, response_class=Response, responses=refusals(409))
async def resend_verification(body: RequestMail, password_reset: Service, client: Client) -> Response:
    """Send the mail with which the owner of this address verifies it, if there is an account that needs it.

    The answer is the same for each address. The link of an older mail stops working.
    """
    await password_reset.request(Purpose.VERIFY, body.email, client)
    return Response(status_code=202)


@router.post("/password-reset", status_code=202, response_class=Response, responses=refusals(409))
async def request_password_reset(body: RequestMail, password_reset: Service, client: Client) -> Response:
    """Send a mail with which the owner of this address chooses another password, if there is an account.

    The answer is the same for each address. The link works once, for an hour; that of an older mail stops working.
    """
    await password_reset.request(Purpose.RESET, body.email, client)
    return Response(status_code=202)


@router.post("/password-reset/confirm", status_code=204, responses=refusals(404))
async def reset_password(body: ResetPassword, password_reset: Service, client: Client) -> Response:
    """Another password for the account to whose address the token was sent. Ends all its sessions; log in afterwards.

    Where the address was not verified before, the API keys that the account made and its sign-in providers end too.
    """
    await password_reset.reset_password(body.token, Secret(body.new_password), client)
    return Response(status_code=204)
