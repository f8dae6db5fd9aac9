"""Mails about accounts, and the tokens in them."""

from wrenn.control.account_mail import messages, token_store
from wrenn.control.account_mail.mails import AccountMails
from wrenn.control.account_mail.token_store import MailedTo, Purpose

__all__ = ["AccountMails", "MailedTo", "Purpose", "messages", "token_store"]
