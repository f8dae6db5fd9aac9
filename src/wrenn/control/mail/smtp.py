"""Sends mail to the operator's SMTP server. No other module talks to it."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from typing import Final
from urllib.parse import urlsplit

import aiosmtplib

from wrenn.base.errors import InvalidRequest
from wrenn.control.mail.settings import MailSettings, Tls

_STEP_TIMEOUT_S: Final = 15.0
"""Of each command; whoever sends a mail has a deadline for all of them."""


class MailFailed(Exception):
    """The mail was not sent. The text is for the log: it holds nothing of the mail, and no word of the server about it.

    Attributes:
        is_final: the server will never take this mail.
        is_unreachable: the server would take no other mail now either.
    """

    def __init__(self, reason: str, *, is_final: bool = False, is_unreachable: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final
        self.is_unreachable = is_unreachable


class SmtpServer:
    """Sends single mails, each over a new connection. The server's certificate is verified."""

    def __init__(self, settings: MailSettings) -> None:
        """Prepare; connects to nobody.

        Raises:
            InvalidRequest: the file of certificates cannot be used.
        """
        self._settings = settings
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                f"WRENN_SMTP_CA_FILE cannot be used: {settings.ca_file}: {error.strerror or error}."
            ) from None

    async def check(self) -> None:
        """Connect and log in, and send nothing.

        Raises:
            MailFailed: the server does not answer, or refuses the login.
        """
        await self._exchange(None)

    async def send(self, message: EmailMessage, recipient: str) -> None:
        """Send it, to this one recipient. After a cancellation it may have been sent or not.

        Raises:
            MailFailed.
        """
        await self._exchange((message, recipient))

    async def _exchange(self, mail: tuple[EmailMessage, str] | None) -> None:
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            # Else the library asks the machine for its name, which may take a while, and tells it to the server.
            local_hostname=urlsplit(settings.public_url).hostname,
            timeout=_STEP_TIMEOUT_S,
            use_tls=settings.tls is Tls.TLS,
            start_tls=settings.tls is Tls.STARTTLS,
            tls_context=None if settings.tls is Tls.NONE else self._tls,
        )
        try:
            await client.connect()
            if settings.user is not None and settings.password is not None:
                await client.login(settings.user, settings.password.reveal())
            if mail is not None:
                message, recipient = mail
                await client.sendmail(settings.sender.address, [recipient], message.as_bytes())
        except aiosmtplib.SMTPException as error:
            raise _failure(error) from None
        except (OSError, ssl.SSLError, ValueError) as error:
            # Before anything of a mail is said, so the text tells of the connection only.
            raise MailFailed(f"the connection failed: {error}", is_unreachable=True) from None
        finally:
            # It was said or not; a good-bye that the server is slow to answer would change nothing.
            client.close()


def _failure(error: aiosmtplib.SMTPException) -> MailFailed:
    match error:
        case aiosmtplib.SMTPRecipientsRefused(recipients=[refused, *_]):
            return _refusal("recipient", refused.code)
        case aiosmtplib.SMTPRecipientRefused(code=code):
            return _refusal("recipient", code)
        case aiosmtplib.SMTPDataError(code=code):
            return _refusal("text", code)
        case aiosmtplib.SMTPAuthenticationError(code=code):
            return MailFailed(f"the server refused user or password: {code}", is_unreachable=True)
        case aiosmtplib.SMTPConnectError() | aiosmtplib.SMTPNotSupported():
            return MailFailed(f"the connection failed: {error}", is_unreachable=True)
        case aiosmtplib.SMTPResponseException(code=code):
            return MailFailed(f"the server refused: {type(error).__name__} {code}")
        case _:
            return MailFailed(f"the connection broke: {type(error).__name__}", is_unreachable=True)


def _refusal(what: str, code: int) -> MailFailed:
    # 4xx is "not now" (a full mailbox, a greylist), 5xx "never".
    return MailFailed(f"the server refused the {what}: {code}", is_final=code >= 500)
