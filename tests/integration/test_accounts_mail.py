"""Verification, password reset and invitations by mail: through a real SMTP server, over two replicas on one database."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from sqlalchemy import text

from wrenn.control.db import Database
from wrenn.control.mail import MailSender, MailSettings, NewMail, SmtpServer, drop_expired, put, store
from wrenn.control.mail.message import compose
from wrenn.control.mail.smtp import MailFailed
from wrenn.control.settings import Settings
from wrenn.control.throttle import Throttle
from wrenn.control.throttle.throttle import Subject, ThrottlePolicy
from wrenn.testing.agent_host import agent_host

from .conftest import (
    DEADLINE_S,
    Platform,
    client,
    environment_of,
    make_team,
    own_database,
    refused,
    row_locked,
    run_sql,
    running_platform,
)
from .mail_server import (
    PASSWORD as MAIL_PASSWORD,
)
from .mail_server import (
    USER,
    MailServer,
    link_in,
    make_certificate,
    running_mail_server,
    text_of,
    token_in,
)
from .people import PASSWORD, People, Person, log_in, make_admin, new_email, sign_up

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("quiet")]

PUBLIC = "http://wrenn.example/at"
NEW_PASSWORD = "another good one"


@dataclass
class Place:
    """A platform with a mail server, and a second replica of it."""

    platform: Platform
    second: Platform
    server: MailServer
    database: Database
    database_url: str

    @property
    def url(self) -> str:
        return self.platform.url

    async def post(self, path: str, replica: Platform | None = None, /, **body: object) -> httpx2.Response:
        async with client((replica or self.platform).url, None) as api:
            return await api.post(f"/v1/auth/{path}", json=body)

    async def sql(self, *statements: str) -> None:
        await run_sql(self.database_url, *statements)

    async def waiting(self) -> int:
        """How many mails the queue has."""
        return (await self.database.execute(text("SELECT count(*) FROM mails"))).scalar_one()

    async def wait_empty(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.waiting():
                await asyncio.sleep(0.02)

    async def send_now(self) -> None:
        """Make what waits due; not what is being sent."""
        async with asyncio.timeout(DEADLINE_S):
            while (await self.database.execute(text("SELECT 1 FROM mails WHERE lease IS NOT NULL"))).all():
                await asyncio.sleep(0.02)
        await self.sql(
            "UPDATE mails SET due_at = now() WHERE lease IS NULL", "SELECT pg_notify('wrenn_mail', '')"
        )

    async def reset_token(self, email: str, number: int = 1) -> str:
        """Ask for a password reset, and read the mail."""
        answer = await self.post("password-reset", email=email)
        assert (answer.status_code, answer.content) == (202, b"")
        mails = [mail for mail in self.server.to(email) if "password" in mail["Subject"]]
        async with asyncio.timeout(DEADLINE_S):
            while len(mails) < number:
                await asyncio.sleep(0.02)
                mails = [mail for mail in self.server.to(email) if "password" in mail["Subject"]]
        return token_in(mails[number - 1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_mail_server())
        url = await stack.enter_async_context(own_database(template_url))
        host = await stack.enter_async_context(agent_host(tmp_path_factory.mktemp("host") / "agent"))
        settings = Settings.from_environment(
            {
                **environment_of(data_dir, url),
                "WRENN_PUBLIC_URL": PUBLIC,
                "WRENN_SMTP_HOST": "127.0.0.1",
                "WRENN_SMTP_PORT": str(server.port),
                "WRENN_SMTP_TLS": "none",
                "WRENN_SMTP_FROM": "Wrenn <wrenn@mail.example>",
            }
        )
        key = await make_team(url, "ada")
        first = await stack.enter_async_context(running_platform(settings, host, key))
        second = await stack.enter_async_context(running_platform(settings, host, key))
        database = Database(url)
        stack.push_async_callback(database.close)
        yield Place(first, second, server, database, url)


@pytest_asyncio.fixture(loop_scope="module")
async def quiet(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """All tests come from one address; and a server that one test spoilt is a good one for the next."""
    place = request.getfixturevalue("place") if "place" in request.fixturenames else None
    if place is not None:
        await place.sql("DELETE FROM attempts")
    yield
    if place is not None:
        place.server.refuse = ""
        place.server.answering.set()


async def verified(person: Person) -> bool:
    return (await person.get("/v1/me")).json()["email_verified"]


async def test_a_sign_up_is_followed_by_a_mail_that_verifies_the_address(place: Place):
    ada = await sign_up(place.url)
    assert not await verified(ada)
    mail = await place.server.wait_mail(ada.email)
    assert str(mail["From"]) == "Wrenn <wrenn@mail.example>"
    assert link_in(mail).startswith(f"{PUBLIC}/account/verify-email#wrv_")
    await place.wait_empty()
    token = token_in(mail)
    kept = await place.database.execute(text("SELECT count(*) FROM mailed_tokens WHERE token_hash ~ '^wr'"))
    assert kept.scalar_one() == 0
    refused(
        await place.post("password-reset/confirm", token=token, new_password=NEW_PASSWORD), 404, "not_found"
    )
    answers = await asyncio.gather(
        *(place.post("verify-email", (place.platform, place.second)[i % 2], token=token) for i in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [204, 404, 404, 404]
    assert await verified(ada)
    # One whose address is verified is sent nothing more.
    assert (await place.post("verify-email/resend", email=ada.email)).status_code == 202
    assert (await place.post("verify-email/resend", email=new_email())).status_code == 202
    await place.sql("DELETE FROM attempts")
    other = await sign_up(place.url)
    first = await place.server.wait_mail(other.email)
    assert (await place.post("verify-email/resend", email=f" {other.email.upper()}")).status_code == 202
    second = await place.server.wait_mail(other.email, 2)
    refused(await place.post("verify-email", token=token_in(first)), 404, "not_found")
    assert (await place.post("verify-email", token=token_in(second))).status_code == 204
    assert len(place.server.to(ada.email)) == 1


async def test_a_reset_changes_the_password_once_and_ends_what_is_open(place: Place):
    ada, eve = await sign_up(place.url), await sign_up(place.url)
    verify = token_in(await place.server.wait_mail(ada.email))
    assert (await place.post("verify-email", token=verify)).status_code == 204
    key = await ada.make_key()
    token = await place.reset_token(ada.email)

    async def events(person: Person) -> str:
        headers = {"Authorization": f"Bearer {person.token}"}
        async with (
            client(person.url, None) as api,
            api.stream("GET", "/v1/events", headers=headers) as answer,
        ):
            assert answer.status_code == 200
            opened.release()
            try:
                async for _ in answer.aiter_bytes():
                    pass
            except httpx2.HTTPError:
                pass
            return "ended"

    opened = asyncio.Semaphore(0)
    hers, others = asyncio.create_task(events(ada)), asyncio.create_task(events(eve))
    for _ in range(2):
        await opened.acquire()
    body = {"token": token, "new_password": NEW_PASSWORD}
    refused(
        await place.post("password-reset/confirm", token=token, new_password="short"), 400, "invalid_request"
    )
    answers = await asyncio.gather(*(place.post("password-reset/confirm", **body) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [204, 404, 404]
    assert all("set-cookie" not in answer.headers for answer in answers), "it lets nobody in"
    async with asyncio.timeout(DEADLINE_S):
        assert await hers == "ended"
    assert not others.done()
    others.cancel()
    refused(await ada.get("/v1/me"), 401, "unauthorized")
    refused(await ada.refresh(), 401, "unauthorized")
    assert (await eve.get("/v1/me")).status_code == 200
    assert (await log_in(place.url, ada.email)).status_code == 401
    assert (await log_in(place.url, ada.email, NEW_PASSWORD)).status_code == 200
    async with client(place.url, None) as api:
        assert (await api.get("/v1/limits", headers={"X-API-Key": key["key"]})).status_code == 200
    root = await sign_up(place.url)
    await make_admin(place.database_url, root)
    log = (await root.get("/v1/admin/audit-logs")).json()["items"]
    told = [(each["action"], each["actor_type"]) for each in log if each.get("resource_id") == ada.user_id]
    assert told == [
        ("reset_password", "user"),
        ("request_password_reset", "system"),
        ("verify_email", "user"),
    ]
    assert token not in str(log)


async def test_of_several_resets_the_newest_works_and_each_ends(place: Place):
    ada = await sign_up(place.url)
    first = await place.reset_token(ada.email)
    second = await place.reset_token(ada.email, 2)

    async def fails(token: str) -> None:
        answer = await place.post("password-reset/confirm", token=token, new_password=NEW_PASSWORD)
        refused(answer, 404, "not_found")

    await fails(first)
    await place.sql("UPDATE mailed_tokens SET expires_at = now()")
    await fails(second)
    third = await place.reset_token(ada.email, 3)
    changed = await ada.post(
        "/v1/me/password", {"current_password": PASSWORD, "new_password": "a third good one"}
    )
    assert changed.status_code == 204
    await fails(third)
    fourth = await place.reset_token(ada.email, 4)
    await place.sql(f"UPDATE users SET status = 'disabled' WHERE email = '{ada.email}'")
    await fails(fourth)


async def test_a_reset_takes_an_unverified_account_from_whoever_made_it(place: Place):
    squatter = await sign_up(place.url)
    key = await squatter.make_key()
    await place.sql(
        "INSERT INTO oauth_providers (provider, provider_id, user_id, email)"
        f" SELECT 'corp', email, id, email FROM users WHERE email = '{squatter.email}'"
    )
    token = await place.reset_token(squatter.email)
    assert (
        await place.post("password-reset/confirm", token=token, new_password=NEW_PASSWORD)
    ).status_code == 204
    async with client(place.url, None) as api:
        refused(await api.get("/v1/limits", headers={"X-API-Key": key["key"]}), 401, "unauthorized")
        owner = (await log_in(place.url, squatter.email, NEW_PASSWORD)).json()
        me = (await api.get("/v1/me", headers={"Authorization": f"Bearer {owner['token']}"})).json()
    assert (me["providers"], me["email_verified"]) == ([], True)


async def test_sign_ups_with_one_address_send_no_more_mails_than_requests_for_them(place: Place):
    email = new_email("victim")
    for number in range(8):
        ada = await sign_up(place.url, email)
        if number < 6:
            # One that is not sent yet would end with the account.
            await place.server.wait_mail(email, number + 1)
        assert (await ada.delete("/v1/me", {"confirmation": email})).status_code == 204
    await place.wait_empty()
    assert len(place.server.to(email)) == 6, "five, and the one that begins the wait"


async def test_sign_ups_of_one_client_send_no_more_mails_than_requests_for_them(place: Place):
    emails = [new_email("listed") for _ in range(24)]
    for email in emails:
        await sign_up(place.url, email)
    await place.server.wait_mail(emails[20])
    await place.wait_empty()
    assert [len(place.server.to(email)) for email in emails] == [1] * 21 + [0] * 3


async def test_no_key_that_is_being_made_survives_a_reset(place: Place):
    squatter = await sign_up(place.url)
    token = await place.reset_token(squatter.email)
    row = f"SELECT FROM users WHERE email = '{squatter.email}'"
    async with asyncio.TaskGroup() as group:
        async with row_locked(place.database_url, row) as wait_blocked:
            body = {"token": token, "new_password": NEW_PASSWORD}
            reset = group.create_task(place.post("password-reset/confirm", **body))
            await wait_blocked(1)
            keys = [group.create_task(squatter.post("/v1/api-keys", {})) for _ in range(5)]
            await wait_blocked(6)
    assert reset.result().status_code == 204
    assert {key.result().status_code for key in keys} == {401}, "the session has ended"
    owner = (await log_in(place.url, squatter.email, NEW_PASSWORD)).json()
    async with client(place.url, None) as api:
        left = await api.get("/v1/api-keys", headers={"Authorization": f"Bearer {owner['token']}"})
    assert left.json() == []


async def test_an_address_without_an_account_is_answered_alike_and_gets_nothing(place: Place):
    ada, nobody = await sign_up(place.url), new_email()
    await place.server.wait_mail(ada.email)

    async def settle() -> None:
        """What the request left to be done is done: it must not slow down the next one."""
        asked = text("SELECT count(*) FROM requested_mails")
        async with asyncio.timeout(DEADLINE_S):
            while (await place.database.execute(asked)).scalar_one():
                await asyncio.sleep(0.02)
        await place.wait_empty()

    took: dict[str, list[float]] = {ada.email: [], nobody: []}
    for turn in range(10):
        # By turns: whatever else the machine does slows down both.
        for email in (ada.email, nobody) if turn % 2 else (nobody, ada.email):
            times = took[email]
            await place.sql("DELETE FROM attempts")
            started = time.perf_counter()
            answer = await place.post("password-reset", email=email)
            times.append(time.perf_counter() - started)
            assert (answer.status_code, answer.content) == (202, b"")
            await settle()
    # The same statements for both. A hash or a mail takes many times as long as they do.
    quicker, slower = sorted(statistics.median(times) for times in took.values())
    assert slower < 3 * quicker
    assert place.server.to(nobody) == []


async def test_mails_are_limited_by_address_and_by_client(place: Place):
    statuses = [
        (
            await place.post(
                "password-reset", (place.platform, place.second)[i % 2], email=f"Victim{i % 2}@b.example"
            )
        )
        for i in range(16)
    ]
    codes = [answer.status_code for answer in statuses]
    assert codes.count(202) == 12, "of each address five, and the one that begins the wait"
    message = refused(statuses[-1], 429, "rate_limited")
    assert "Too many" in message
    assert int(statuses[-1].headers["retry-after"]) > 200
    more = [(await place.post("verify-email/resend", email=new_email())).status_code for _ in range(12)]
    assert more.count(429) >= 1
    assert more[0] == 202


async def test_wrong_tokens_are_counted(place: Place):
    wrong = [
        await place.post(path, token=token, **more)
        for token in ("", "wrv_", f"wrv_{'0' * 64}", f"wrp_{'0' * 64}", "x" * 200, "\x00")
        for path, more in (
            ("verify-email", {}),
            ("password-reset/confirm", {"new_password": NEW_PASSWORD}),
        )
    ]
    for answer in wrong:
        refused(answer, 404, "not_found")
    found = await place.database.execute(text("SELECT count FROM attempts WHERE subject LIKE 'address:%'"))
    assert found.scalar_one() == len(wrong)
    await place.sql("UPDATE attempts SET count = 60, blocked_until = now() + interval '1 minute'")
    refused(await place.post("verify-email", token=f"wrv_{'0' * 64}"), 429, "rate_limited")


async def test_an_invitation_goes_out_by_mail_and_names_are_harmless(place: Place):
    ada = await sign_up(place.url, name="Ann http://evil.example/x <b>www.evil.example</b>")
    email = new_email("friend")

    async def invite() -> dict[str, Any]:
        answer = await ada.post(f"/v1/teams/{ada.team_id}/members", {"email": email})
        assert answer.status_code == 202, answer.text
        return answer.json()

    made = await invite()
    assert made["mailed"] is True
    mail = await place.server.wait_mail(email)
    assert link_in(mail) == made["link"] == f"{PUBLIC}/account/invitation#{made['token']}"
    said = text_of(mail)
    assert "evil.example" not in said
    assert "Ann http evil example x b www evil example b" in said
    friend = await sign_up(place.url, email)
    assert (await friend.post("/v1/invitations/accept", {"token": token_in(mail)})).status_code == 200
    # Whoever is invited again and again gets only so many mails; the inviter still has each link.
    others = [await sign_up(place.url) for _ in range(2)]
    victim = new_email("victim")
    mailed = [
        (await each.post(f"/v1/teams/{each.team_id}/members", {"email": victim})).json()["mailed"]
        for each in others * 4
    ]
    assert mailed == [True] * 6 + [False] * 2


async def test_a_server_that_is_down_loses_nothing(place: Place, caplog: pytest.LogCaptureFixture):
    await place.server.stop()
    caplog.set_level(logging.INFO)
    people = [await sign_up(place.url) for _ in range(3)]
    async with asyncio.timeout(DEADLINE_S):
        while "a mail was not sent" not in caplog.messages:
            await asyncio.sleep(0.02)
    assert await place.waiting() == 3
    await place.server.start()
    await place.send_now()
    for person in people:
        await place.server.wait_mail(person.email)
    await place.wait_empty()
    assert [len(place.server.to(person.email)) for person in people] == [1, 1, 1]
    logged = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("wrenn"))
    for person in people:
        assert person.email not in logged
        assert token_in(place.server.to(person.email)[0]) not in logged


async def test_a_refusal_for_now_is_tried_again_and_one_for_good_is_given_up(place: Place):
    place.server.refuse = "451 greylisted, come again"
    later = await sign_up(place.url)
    async with asyncio.timeout(DEADLINE_S):
        while not (
            await place.database.execute(text("SELECT 1 FROM mails WHERE attempts > 0 AND lease IS NULL"))
        ).all():
            await asyncio.sleep(0.02)
    place.server.refuse = "550 nobody here"
    await sign_up(place.url)
    async with asyncio.timeout(DEADLINE_S):
        while await place.waiting() > 1:
            await asyncio.sleep(0.02)
    place.server.refuse = ""
    await place.send_now()
    await place.server.wait_mail(later.email)
    await place.wait_empty()


async def test_a_slow_server_holds_up_no_request_and_two_replicas_send_once(place: Place):
    await place.wait_empty()
    before = len(place.server.mails)
    place.server.answering.clear()
    people = [await sign_up((place.url, place.second.url)[i % 2]) for i in range(6)]
    answers = await asyncio.gather(*(place.post("password-reset", email=p.email) for p in people[:4]))
    assert [answer.status_code for answer in answers] == [202] * 4
    assert len(place.server.mails) == before, "all that was answered while the server took no mail"
    place.server.answering.set()
    async with asyncio.timeout(DEADLINE_S):
        while len(place.server.mails) < before + 10:
            await asyncio.sleep(0.05)
    await place.wait_empty()
    ids = [str(mail["Message-ID"]) for mail in place.server.mails[before:]]
    assert len(ids) == len(set(ids)) == 10


async def test_an_expired_mail_is_not_sent(place: Place):
    await place.server.stop()
    ada = await sign_up(place.url)
    await place.sql("UPDATE mails SET expires_at = now()")
    await place.server.start()
    eve = await sign_up(place.url)
    await place.send_now()
    await place.server.wait_mail(eve.email)
    assert await drop_expired(place.database) == {"verify": 1}
    assert await place.waiting() == 0
    assert place.server.to(ada.email) == []


async def test_an_account_that_ends_takes_its_mails_along(place: Place):
    await place.server.stop()
    ada = await sign_up(place.url)
    assert await place.waiting() == 1
    assert (await ada.delete("/v1/me", {"confirmation": ada.email})).status_code == 204
    assert await place.waiting() == 0
    left = await place.database.execute(
        text("SELECT count(*) FROM mailed_tokens JOIN users ON users.id = user_id WHERE status = 'deleted'")
    )
    assert left.scalar_one() == 0
    await place.server.start()


def smtp(server: MailServer, tls: str, **more: str) -> SmtpServer:
    environment = {
        "WRENN_SMTP_HOST": "127.0.0.1",
        "WRENN_SMTP_PORT": str(server.port),
        "WRENN_SMTP_TLS": tls,
        "WRENN_SMTP_FROM": "wrenn@mail.example",
        **{f"WRENN_SMTP_{name}": value for name, value in more.items()},
    }
    settings = MailSettings.from_environment(environment, PUBLIC)
    assert settings is not None
    return SmtpServer(settings)


async def test_tls_is_used_with_a_certificate_that_is_checked(tmp_path: Path):
    context, ca_file = make_certificate(tmp_path)
    password_file = tmp_path / "password"
    password_file.write_text(f"{MAIL_PASSWORD}\n")
    login = {"USER": USER, "PASSWORD_FILE": str(password_file), "CA_FILE": str(ca_file)}
    sender = smtp_sender()
    message = compose(mail_id="1", sender=sender, recipient="a@b.example", subject="é", text="Grüße\n")
    async with running_mail_server(tls=context, wants_login=True) as server:
        await smtp(server, "starttls", **login).send(message, "a@b.example")
        assert server.envelopes == [("wrenn@mail.example", ["a@b.example"], True)]
        assert (str(server.mails[0]["Subject"]), text_of(server.mails[0]).strip()) == ("é", "Grüße")
        with pytest.raises(MailFailed, match="certificate") as unknown:
            await smtp(server, "starttls", USER=USER, PASSWORD=MAIL_PASSWORD).check()
        assert unknown.value.is_unreachable
        with pytest.raises(MailFailed, match="user or password") as wrong:
            await smtp(server, "starttls", USER=USER, PASSWORD="a wrong one", CA_FILE=str(ca_file)).check()
        assert "a wrong one" not in repr(wrong.value)
    async with running_mail_server(tls=context, is_tls_from_begin=True) as server:
        await smtp(server, "tls", CA_FILE=str(ca_file)).send(message, "a@b.example")
        assert len(server.mails) == 1
        with pytest.raises(MailFailed, match="certificate"):
            await smtp(server, "tls").check()
    # A server without TLS gets neither password nor mail.
    async with running_mail_server(wants_login=True) as server:
        with pytest.raises(MailFailed):
            await smtp(server, "starttls", **login).send(message, "a@b.example")
        assert server.mails == []


def smtp_sender() -> Any:
    settings = MailSettings.from_environment(
        {"WRENN_SMTP_HOST": "x", "WRENN_SMTP_FROM": "wrenn@mail.example"}, PUBLIC
    )
    assert settings is not None
    return settings.sender


async def test_a_newer_mail_takes_the_place_of_one_that_waits(place: Place):
    await place.server.stop()

    async def queue(tx: Any) -> None:
        for number in range(3):
            await put(tx, NewMail("test:1", "a@b.example", "s", f"text {number}", 60))

    await place.database.transaction(queue)
    assert await place.waiting() == 1
    await place.server.start()
    await place.send_now()
    mail = await place.server.wait_mail("a@b.example")
    assert text_of(mail).strip() == "text 2"


async def test_a_mail_of_a_sender_that_died_is_sent_by_another_one(place: Place):
    await place.server.stop()
    ada = await sign_up(place.url)
    async with asyncio.timeout(DEADLINE_S):
        while not (
            await place.database.execute(text("SELECT 1 FROM mails WHERE attempts > 0 AND lease IS NULL"))
        ).all():
            await asyncio.sleep(0.02)
    await place.sql("UPDATE mails SET due_at = now()")
    [lost] = await store.take_due(place.database, most=4, lease_s=0.5)
    assert ada.email not in repr(lost)
    assert await store.take_due(place.database, most=4, lease_s=60) == []
    await place.server.start()
    await asyncio.sleep(0.6)
    await place.sql("SELECT pg_notify('wrenn_mail', '')")
    await place.server.wait_mail(ada.email)
    await place.wait_empty()
    # It comes back too late to change anything.
    again = await sign_up(place.url)
    await store.remove(place.database, lost)
    await place.server.wait_mail(again.email)


async def test_a_mail_that_is_being_sent_when_the_program_ends_is_sent_once(
    people: People, people_database: Database
):
    async with running_mail_server() as server:
        server.answering.clear()
        mail = NewMail("test:end", "a@b.example", "s", "text", 60)
        await people_database.transaction(lambda tx: put(tx, mail))
        sender = MailSender(people_database, smtp(server, "none"), smtp_sender())
        running = asyncio.create_task(sender.run())
        async with asyncio.timeout(DEADLINE_S):
            while not server.thinking:
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.sleep(0.1)
        assert not running.done()
        server.answering.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(server.mails) == 1
    assert (await people_database.execute(text("SELECT count(*) FROM mails"))).scalar_one() == 0


async def test_a_database_error_contains_no_parameter(place: Place):
    with pytest.raises(Exception, match="division by zero") as failure:
        await place.database.execute(text("SELECT length(:secret) / 0"), {"secret": "wrv_secret"})
    assert "wrv_secret" not in str(failure.value)


async def test_without_a_mail_server_nothing_is_asked_for(people: People):
    ada = await people.sign_up()
    me = (await ada.get("/v1/me")).json()
    assert me["email_verified"] is False
    made = await ada.post(f"/v1/teams/{ada.team_id}/members", {"email": new_email()})
    assert made.json()["mailed"] is False
    async with client(people.url, None) as api:
        for path in ("password-reset", "verify-email/resend"):
            answer = await api.post(f"/v1/auth/{path}", json={"email": ada.email})
            refused(answer, 409, "mail_not_configured")


async def test_good_tries_at_once_make_nobody_wait(place: Place):
    throttle = Throttle(place.database)
    many = Subject("address:many", ThrottlePolicy(free=40, first_wait_s=60, longest_wait_s=60, forget_s=900))
    await asyncio.gather(*(throttle.count_attempt(many) for _ in range(40)))
    source = Subject("address:test", ThrottlePolicy(free=3, first_wait_s=60, longest_wait_s=60, forget_s=900))
    await asyncio.gather(*(throttle.count_attempt(source) for _ in range(4)))
    # The fourth counts as a bad one while it is under way, so that guesses at once are no more than the free ones.
    with pytest.raises(Exception, match="Too many attempts"):
        await throttle.count_attempt(source)
    for _ in range(4):
        await place.database.transaction(lambda tx: throttle.uncount(tx, source))
    await throttle.count_attempt(source)
