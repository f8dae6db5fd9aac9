"""Queues mails about accounts in the transaction that they belong to. Without a mail server it does nothing."""

from __future__ import annotations

from wrenn.base.ids import TeamId, UserId
from wrenn.base.secrets import Secret
from wrenn.control import mail
from wrenn.control.account_mail import messages, token_store
from wrenn.control.account_mail.one_time_tokens import put_token
from wrenn.control.account_mail.token_store import Purpose
from wrenn.control.db import Transaction
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import User


class AccountMails:
    """Queues the mails about accounts. Links in mails lead to `public_url`; None: no mail server is set up."""

    def __init__(self, throttle: Throttle, public_url: str | None) -> None:
        self._throttle = throttle
        self._public_url = public_url

    @property
    def is_configured(self) -> bool:
        """Whether mails are sent."""
        return self._public_url is not None

    async def verify(self, tx: Transaction, user: User) -> None:
        """Send a mail that verifies the account's address, unless it is verified; earlier tokens become void."""
        if self._public_url is None or user.is_email_verified or not mail.is_mailable(user.email):
            return
        token = await put_token(tx, user, Purpose.VERIFY, life_s=messages.VERIFY_LIFE_S)
        await mail.put(
            tx, messages.verification(user.user_id, user.email, base_url=self._public_url, token=token)
        )

    async def reset_password(self, tx: Transaction, user: User) -> bool:
        """Send a mail with which the user can set another password; earlier tokens become void. False: no mail can be sent."""
        if self._public_url is None or not mail.is_mailable(user.email):
            return False
        token = await put_token(tx, user, Purpose.RESET, life_s=messages.RESET_LIFE_S)
        await mail.put(
            tx, messages.password_reset(user.user_id, user.email, base_url=self._public_url, token=token)
        )
        return True

    async def invite(
        self,
        tx: Transaction,
        team_id: TeamId,
        email: str,
        *,
        token: Secret,
        team_name: str,
        inviter_name: str,
    ) -> bool:
        """Send an invitation to the invited address; False: too many were sent, or the address cannot get mail."""
        topic = messages.invitation_topic(team_id, email)
        # The link in a mail that still waits is void from now on.
        await mail.cancel(tx, topic)
        if self._public_url is None or not mail.is_mailable(email):
            return False
        limits = Subject.team_mails(team_id), Subject.invitation_mail(email)
        if not await self._throttle.count_if_allowed(tx, *limits):
            return False
        await mail.put(
            tx,
            messages.invitation(
                team_id,
                email,
                base_url=self._public_url,
                token=token,
                team_name=team_name,
                inviter_name=inviter_name,
            ),
        )
        return True

    @staticmethod
    async def uninvite(tx: Transaction, team_id: TeamId, email: str) -> None:
        """Cancel an invitation mail that was not sent yet."""
        await mail.cancel(tx, messages.invitation_topic(team_id, email))

    @staticmethod
    async def void(tx: Transaction, user_id: UserId, *purposes: Purpose) -> None:
        """Void the user's tokens of these purposes, and cancel mails with them that were not sent yet."""
        topics = {Purpose.VERIFY: messages.verify_topic, Purpose.RESET: messages.reset_topic}
        await token_store.void(tx, user_id, *purposes)
        await mail.cancel(tx, *(topics[purpose](user_id) for purpose in purposes if purpose in topics))
