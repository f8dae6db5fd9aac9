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
    from wrenn.sdk.account import post_anonymously
    from wrenn.sdk.settings import account_settings, chosen_base_url

    base_url = account_settings(url, request_timeout_s=60).base_url if url else chosen_base_url()
    post_anonymously(base_url, path, body)


def _token_of(text: str, prefix: str) -> str | None:
    """Extract the token from a link, or return a token as it is; None for other text."""
    token = text.rpartition("#")[2].strip()
    return token if token.startswith(prefix) else None


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
    to this command, which prompts for the new password. The link works once, for an hour. All sessions of the
    account end; log in afterwards.
    """
    token = _token_of(email_or_link, "wrp_")
    if token is None:
        _post(url, "/v1/auth/password-reset", {"email": email_or_link})
        sys.stderr.write("If there is an account with this address, a mail is on its way to it.\n")
        return
    password = read_password(twice=True)
    _post(url, "/v1/auth/password-reset/confirm", {"token": token, "new_password": password.reveal()})
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
    _post(url, "/v1/auth/verify-email", {"token": token})
    sys.stderr.write("The address is confirmed.\n")
