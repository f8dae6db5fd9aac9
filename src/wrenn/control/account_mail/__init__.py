"""Mails about accounts, and tokens that work once."""

from wrenn.control.account_mail import messages, token_store
from wrenn.control.account_mail.mails import AccountMails
from wrenn.control.account_mail.one_time_tokens import find_token, put_token
from wrenn.control.account_mail.token_store import Purpose

__all__ = ["AccountMails", "Purpose", "find_token", "messages", "put_token", "token_store"]
