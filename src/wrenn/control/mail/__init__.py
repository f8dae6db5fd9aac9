"""Mail: a queue in PostgreSQL, and the loop that sends it through the operator's SMTP server."""

from wrenn.control.mail.message import is_mailable, shown_name
from wrenn.control.mail.sender import CHANNEL, MailSender
from wrenn.control.mail.settings import MailSettings
from wrenn.control.mail.smtp import SmtpServer
from wrenn.control.mail.store import NewMail, cancel, drop_expired, put

__all__ = [
    "CHANNEL",
    "MailSender",
    "MailSettings",
    "NewMail",
    "SmtpServer",
    "cancel",
    "drop_expired",
    "is_mailable",
    "put",
    "shown_name",
]
