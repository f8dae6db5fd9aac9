"""`wrenn account`: what the owner of an e-mail address can do without logging in."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wrenn.cli.login import read_password

app = typer.Typer(
    help="Password reset and address confirmation, without logging in.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help="URL of the platform. [default: WRENN_BASE_URL, the login's, or this machine]"
    ),
]


def _post(url: str | None, path: str, body: dict[str, str]) -> None:
    from wrenn.cli.settings import platform_url
    from wrenn.sdk.account import post_anonymously
    from wrenn.sdk.settings import load_profile

    post_anonymously(platform_url(url, load_profile()), path, body)


def _token_of(text: str, prefix: str) -> str | None:
    """Extract the token from a link, or return a token as it is; None for other text."""
    token = text.rpartition("#")[2].strip()
    return token if token.startswith(prefix) else None


def _platform_of(link: str, page: str, url: str | None) -> str | None:
    """Return the URL of the platform that a link is of; of a token without a link, `url`.

    Raises:
        InvalidRequest: it is not the platform of `url`, which must not learn the token.
        InvalidRequestError: it is not a link.
    """
    from wrenn.base.errors import InvalidRequest
    from wrenn.sdk.settings import account_settings

    address = link.strip().rpartition("#")[0]
    if not address:
        return url
    platform = account_settings(address.removesuffix(page), request_timeout_s=60).base_url
    if url is not None and account_settings(url, request_timeout_s=60).base_url != platform:
        raise InvalidRequest(
            f"The link is of {platform}, not of {url}: leave out --url, or give only what follows the # in the link."
        )
    return platform


@app.command("reset-password")
def reset_password(
    email_or_link: Annotated[
        str, typer.Argument(metavar="EMAIL|LINK", help="The account's address, or the link in the mail.")
    ],
    *,
    url: UrlOption = None,
) -> None:
    """Reset your password if you have forgotten it.

    With an address: sends a mail with a link, if the account exists. Open the link in a browser, or pass it
    to this command, which prompts for the new password and sends it to the platform that the link names. The
    link works once, for an hour. All sessions of the account end; log in afterwards.
    """
    token = _token_of(email_or_link, "wrp_")
    if token is None:
        _post(url, "/v1/auth/password-reset", {"email": email_or_link})
        sys.stderr.write("If there is an account with this address, a mail is on its way to it.\n")
        return
    platform = _platform_of(email_or_link, "/account/reset-password", url)
    if platform is not None:
        # A link may be of somebody else's mail.
        sys.stderr.write(f"New password for {platform}\n")
    password = read_password(twice=True)
    _post(platform, "/v1/auth/password-reset/confirm", {"token": token, "new_password": password.reveal()})
    sys.stderr.write("The password is changed. Log in: wrenn login\n")


@app.command("verify-email")
def verify_email(
    email_or_link: Annotated[
        str, typer.Argument(metavar="EMAIL|LINK", help="The account's address, or the link in the mail.")
    ],
    *,
    url: UrlOption = None,
) -> None:
    """Confirm the address of your account.

    With an address: sends the mail again, if there is an account whose address is not confirmed. With the
    link from the mail: confirms the address.
    """
    token = _token_of(email_or_link, "wrv_")
    if token is None:
        _post(url, "/v1/auth/verify-email/resend", {"email": email_or_link})
        sys.stderr.write("If there is an account that needs it, a mail is on its way to this address.\n")
        return
    platform = _platform_of(email_or_link, "/account/verify-email", url)
    _post(platform, "/v1/auth/verify-email", {"token": token})
    sys.stderr.write("The address is confirmed.\n")
