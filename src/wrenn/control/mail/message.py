"""The content of a mail: one recipient, a subject of one line, plain text.

Names of users and teams are other people's text. `shown_name` makes them fit for a mail that carries our name: one short line, of
which no mail program makes a link. Headers are written by the standard library, which refuses line breaks in them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

_NAME_LIMIT: Final = 60
TEXT_LIMIT: Final = 4000
SUBJECT_LIMIT: Final = 200
# What HTML takes for an e-mail address: no quotes, comments or lists, so it is one recipient wherever it is read.
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?=.{1,190}\Z)"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_NAME_MARKS: Final = " -_'"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An e-mail address with a display name."""

    name: str
    address: str


def is_mailable(address: str) -> bool:
    """Whether mail can be sent to this address. Accounts may have others, such as ones with quotes or not in ASCII."""
    local = address.partition("@")[0]
    return (
        _ADDRESS.fullmatch(address) is not None
        and not local.startswith(".")
        and not local.endswith(".")
        and ".." not in local
    )


def shown_name(name: str) -> str:
    """Return a user's or team's name as mails show it: letters, digits, spaces and `-_'` on one line, at most 60 characters.

    Without dots, slashes, colons and at-signs no mail program takes a part of it for an address.
    """
    allowed = (
        mark if mark in _NAME_MARKS or unicodedata.category(mark)[0] in "LMN" else " "
        for mark in unicodedata.normalize("NFC", name)
    )
    words = " ".join("".join(allowed).split())
    return f"{words[: _NAME_LIMIT - 1]}…" if len(words) > _NAME_LIMIT else words or "somebody"


def compose(*, mail_id: str, sender: Mailbox, recipient: str, subject: str, text: str) -> EmailMessage:
    """Build the message. Its id is that of the queue, so that duplicates can be recognised."""
    assert is_mailable(recipient), "checked when it was put into the queue"
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(sender.name, addr_spec=sender.address)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{mail_id}@{sender.address.partition('@')[2]}>"
    # No out-of-office note is wanted in answer.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message
