"""What other people's text can do to a mail that carries our name: nothing."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import messages
from wrenn.control.mail import is_mailable, shown_name
from wrenn.control.mail.message import TEXT_LIMIT, Mailbox, compose

SENDER = Mailbox("Wrenn, Inc.", "wrenn@mail.example")


@given(st.text(max_size=200))
def test_a_name_is_one_short_line_without_a_link(name: str):
    shown = shown_name(name)
    assert 1 <= len(shown) <= 60
    assert re.search(r"[.:/@\\<>\r\n\t\x00\u200b-\u206f\u3002]", shown) is None
    assert shown == " ".join(shown.split())


@given(st.text(max_size=200), st.text(max_size=200))
def test_an_invitation_has_one_link_whatever_the_names_are(team: str, inviter: str):
    token = Secret("wri_" + "0" * 64)
    mail = messages.invitation(
        TeamId.new(),
        "a@b.example",
        base_url="https://w.example",
        token=token,
        team_name=team,
        inviter_name=inviter,
    )
    assert len(mail.text) < TEXT_LIMIT
    assert set(re.findall(r"https?://\S+|www\.\S+", mail.text)) == {
        "https://w.example",
        f"https://w.example/account/invitation#{token.reveal()}",
    }
    assert token.reveal() not in repr(mail)


@given(st.from_regex(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,20}@[a-z0-9.-]{1,20}", fullmatch=True))
def test_what_is_mailable_is_one_recipient_to_the_library(address: str):
    if not is_mailable(address):
        return
    message = compose(mail_id="1", sender=SENDER, recipient=address, subject="s", text="t")
    sent = message_from_bytes(message.as_bytes(), policy=SMTP)
    [recipient] = sent["To"].addresses
    assert recipient.addr_spec == address
    assert set(sent.keys()) >= {"From", "To", "Subject", "Date", "Message-ID"}


@pytest.mark.parametrize(
    "address",
    [
        "a@b.example\r\nBcc: c@d.example", "a@b.example,c@d.example", "<a@b.example>", '"a b"@c.example', "a@b.example>",
        "a@@b.example", "a@b..example", ".a@b.example", "a..b@c.example", "a@-b.example", "ä@b.example", "a@b.example\n",
        f"{'a' * 65}@b.example", f"a@{'b.' * 100}example", "a@", "@b.example", "a@[127.0.0.1]", "a b@c.example", "",
    ],
)  # fmt: skip
def test_what_could_be_more_than_one_recipient_is_not_mailable(address: str):
    assert not is_mailable(address)


def test_a_line_break_in_a_header_is_refused():
    with pytest.raises(ValueError, match=r"linefeed|newline|carriage"):
        compose(
            mail_id="1", sender=SENDER, recipient="a@b.example", subject="s\r\nBcc: c@d.example", text="t"
        )
