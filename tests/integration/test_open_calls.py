"""Whoever loses access loses what is open too: terminals, streams, transfers, watches, events and visits of ports, on every replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from wrenn.base.errors import AccessLost
from wrenn.base.ids import SessionId, TeamId, UserId
from wrenn.base.units import MIB
from wrenn.control.auth import ApiKey, OpenCalls, Operation, UserToken
from wrenn.control.auth.store import find_callers

from .conftest import DEADLINE_S, client, run_sql
from .guest_programs import echo_messages, program, read_head, socket_program
from .people import People, Person, make_admin
from .test_control_streams import wait_gone

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTICED_WITHIN_S = 5.0
LARGE_B = 256 * MIB
"""More than all buffers between a file and a client that does not read."""

Headers = Mapping[str, str]
Ended = Callable[[], Coroutine[Any, Any, None]]
"""Returns once the call has ended, which must not be its ordinary end."""


@dataclass
class Opened:
    """Where calls are opened: at the second replica, while access is taken at the first."""

    url: str
    path: str
    headers: Headers
    stack: AsyncExitStack
    pages: int
    sockets: int

    async def http(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """An answer that has begun."""
        api = await self.stack.enter_async_context(client(self.url, None))
        headers = {**self.headers, **more.pop("headers", {})}
        answer = await self.stack.enter_async_context(api.stream(method, path, headers=headers, **more))
        assert answer.status_code == 200, await answer.aread()
        return answer

    async def socket(self, path: str, headers: Headers = {}, **start: object) -> ClientConnection:  # noqa: B006
        """A WebSocket that was accepted, and what it is told first."""
        url = self.url.replace("http:", "ws:") + path
        sent = {**self.headers, **headers}
        opening = connect(url, additional_headers=sent, proxy=None, close_timeout=0.2, ping_interval=None)
        opened = await self.stack.enter_async_context(opening)
        if start:
            await opened.send(json.dumps(start))
        return opened

    @property
    def at_port(self) -> Callable[[int], Headers]:
        sandbox_id = self.path.rpartition("/")[2]
        return lambda port: {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": str(port)}


async def messages_of(opened: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes until it is closed, however."""
    with suppress(ConnectionClosed):
        while True:
            yield await opened.recv()


async def closed_with_1008(opened: ClientConnection) -> None:
    async for _ in messages_of(opened):
        pass
    assert opened.close_code == 1008


async def broken_off(answer: httpx2.Response) -> None:
    with pytest.raises(httpx2.TransportError):
        async for _ in answer.aiter_bytes():
            pass


async def exec_stream(at: Opened) -> Ended:
    opened = await at.socket(f"{at.path}/exec/stream", type="start", cmd="sleep", args=["60"])
    assert json.loads(await opened.recv())["type"] == "start"

    async def ended() -> None:
        # With a team its sandboxes go, which a stream may notice first.
        assert json.loads(await opened.recv())["code"] in ("access_lost", "invalid_state")
        await closed_with_1008(opened)

    return ended


async def terminal(at: Opened) -> Ended:
    opened = await at.socket(f"{at.path}/pty", type="start", cmd="/bin/sh")
    assert json.loads(await opened.recv())["type"] == "started"
    return lambda: closed_with_1008(opened)


async def attached_process(at: Opened) -> Ended:
    async with client(at.url, None) as api:
        body = {"cmd": "sleep", "args": ["60"], "background": True}
        pid = (await api.post(f"{at.path}/exec", json=body, headers=dict(at.headers))).json()["pid"]
    opened = await at.socket(f"{at.path}/processes/{pid}/stream")
    assert json.loads(await opened.recv())["type"] == "start"
    return lambda: closed_with_1008(opened)


async def command(at: Opened) -> Ended:
    """A command that runs in the foreground, and is known to run."""
    api = await at.stack.enter_async_context(client(at.url, None))
    body = {"cmd": "/bin/sh", "args": ["-c", "echo $$ > runs; sleep 60"], "timeout_sec": 60, "cwd": "/"}
    task = asyncio.create_task(api.post(f"{at.path}/exec", json=body, headers=dict(at.headers)))
    runs = {"path": "/runs"}
    async with asyncio.timeout(DEADLINE_S):
        while (
            await api.post(f"{at.path}/files/stat", json=runs, headers=dict(at.headers))
        ).status_code != 200:
            await asyncio.sleep(0.05)

    async def ended() -> None:
        assert (await task).status_code == 401

    return ended


async def watch(at: Opened) -> Ended:
    answer = await at.http("GET", f"{at.path}/files/watch", params={"path": "/"})
    lines = answer.aiter_lines()
    assert "started" in await anext(lines)

    async def ended() -> None:
        said = [line async for line in lines if line.startswith("data:")]
        assert json.loads(said[-1][5:])["type"] == "error"

    return ended


async def events(at: Opened) -> Ended:
    answer = await at.http("GET", "/v1/events")

    async def ended() -> None:
        async for _ in answer.aiter_lines():
            pass

    return ended


async def download(at: Opened) -> Ended:
    async with client(at.url, None) as api:
        body = {"cmd": "truncate", "args": ["-s", str(LARGE_B), "large"], "cwd": "/"}
        assert (await api.post(f"{at.path}/exec", json=body, headers=dict(at.headers))).json()[
            "exit_code"
        ] == 0
    answer = await at.http("POST", f"{at.path}/files/read", json={"path": "/large"})
    assert int(answer.headers["content-length"]) == LARGE_B
    return lambda: broken_off(answer)


async def upload(at: Opened) -> Ended:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        head = '--b\r\nContent-Disposition: form-data; name="path"\r\n\r\n/up\r\n'
        yield f'{head}--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nfirst'.encode()
        begun.set()
        while True:
            yield b"more"
            await asyncio.sleep(0.05)

    api = await at.stack.enter_async_context(client(at.url, None))
    form = {**at.headers, "Content-Type": "multipart/form-data; boundary=b"}
    task = asyncio.create_task(api.post(f"{at.path}/files/stream/write", content=endless(), headers=form))
    await begun.wait()

    async def ended() -> None:
        try:
            assert (await task).status_code == 401
        except httpx2.TransportError:
            return  # the answer came while the body was on its way

    return ended


async def page(at: Opened) -> Ended:
    """An answer of a program on a port that goes on and on."""
    answer = await at.http("GET", "/", headers=dict(at.at_port(at.pages)))
    chunks = answer.aiter_bytes()
    await anext(chunks)

    async def ended() -> None:
        with pytest.raises(httpx2.TransportError):
            async for _ in chunks:
                pass

    return ended


async def port_socket(at: Opened) -> Ended:
    opened = await at.socket("/", at.at_port(at.sockets))
    await opened.send("there")
    assert await opened.recv() == "there"
    return lambda: closed_with_1008(opened)


async def tunnel(at: Opened) -> Ended:
    opened = await at.socket(f"{at.path}/ports/{at.pages}/tunnel")
    await opened.send(b"GET / HTTP/1.1\r\n\r\n")
    await opened.recv()
    return lambda: closed_with_1008(opened)


KINDS = (
    exec_stream, terminal, attached_process, command, watch, events, upload, page, port_socket, tunnel,
)  # fmt: skip


async def endless_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


def key_headers(key: Mapping[str, Any]) -> Headers:
    return {"X-API-Key": key["key"]}


def token_headers(person: Person) -> Headers:
    return {"Authorization": f"Bearer {person.token}"}


async def sandbox_of(person: Person) -> str:
    return f"/v1/sandboxes/{(await person.post('/v1/sandboxes')).json()['id']}"


async def test_a_revoked_key_ends_every_kind_of_open_call_on_another_replica(people: People):
    ada = await people.sign_up()
    path = await sandbox_of(ada)
    revoked, kept = await ada.make_key(), await ada.make_key()
    async with (
        AsyncExitStack() as stack,
        program(endless_page) as pages,
        socket_program(echo_messages) as sockets,
    ):
        at = Opened(people.second.url, path, key_headers(revoked), stack, pages, sockets)
        endings = {kind.__name__: await kind(at) for kind in KINDS}
        downloaded = await download(at)
        other = Opened(people.second.url, path, key_headers(kept), stack, pages, sockets)
        survivor = await other.socket("/", other.at_port(sockets))
        assert (await ada.delete(f"/v1/api-keys/{revoked['id']}")).status_code == 204
        tasks = [asyncio.create_task(ended(), name=name) for name, ended in endings.items()]
        done, open_still = await asyncio.wait(tasks, timeout=NOTICED_WITHIN_S)
        assert not [task.get_name() for task in open_still]
        for task in done:
            task.result()
        async with asyncio.timeout(NOTICED_WITHIN_S):
            await downloaded()
        await survivor.send("still")
        assert await survivor.recv() == "still"


async def test_visits_of_a_port_end_when_it_is_not_public_any_more(people: People):
    ada = await people.sign_up()
    async with (
        AsyncExitStack() as stack,
        program(endless_page) as pages,
        socket_program(echo_messages) as sockets,
        socket_program(echo_messages) as others,
    ):
        ports = [pages, sockets, others]
        path = f"/v1/sandboxes/{(await ada.post('/v1/sandboxes', {'public_ports': ports})).json()['id']}"
        anybody = Opened(people.second.url, path, {}, stack, pages, sockets)
        endings = [await kind(anybody) for kind in (page, port_socket)]
        survivor = await anybody.socket("/", anybody.at_port(others))
        assert (await ada.patch(path, {"public_ports": [others]})).status_code == 200
        async with asyncio.timeout(NOTICED_WITHIN_S):
            for ended in endings:
                await ended()
        await survivor.send("still")
        assert await survivor.recv() == "still"


async def removed_member(people: People, ada: Person, bob: Person) -> None:
    assert (await ada.delete(f"/v1/teams/{ada.team_id}/members/{bob.user_id}")).status_code == 204


async def deactivated_user(people: People, ada: Person, bob: Person) -> None:
    root = await people.sign_up()
    await make_admin(people.database_url, root)
    assert (await root.put(f"/v1/admin/users/{bob.user_id}/active", {"active": False})).status_code == 204


async def deleted_team(people: People, ada: Person, bob: Person) -> None:
    assert (await ada.delete(f"/v1/teams/{ada.team_id}")).status_code == 204


async def ended_session(people: People, ada: Person, bob: Person) -> None:
    assert (await bob.post("/v1/auth/logout")).status_code == 204


async def expired_session(people: People, ada: Person, bob: Person) -> None:
    await run_sql(
        people.database_url, f"UPDATE sessions SET expires_at = now() WHERE user_id = '{uuid_of(bob)}'"
    )


def uuid_of(person: Person) -> str:
    return str(UserId.parse(person.user_id).value)


@pytest.mark.parametrize(
    "lose", [removed_member, deactivated_user, deleted_team, ended_session, expired_session], ids=lambda f: f.__name__
)  # fmt: skip
async def test_whoever_loses_access_loses_the_open_streams(
    people: People, lose: Callable[[People, Person, Person], Awaitable[None]]
):
    ada = await people.sign_up()
    bob = await ada.add(await people.sign_up())
    path = await sandbox_of(ada)
    async with AsyncExitStack() as stack:
        at = Opened(people.second.url, path, token_headers(bob), stack, 0, 0)
        endings = [await kind(at) for kind in (exec_stream, events)]
        await lose(people, ada, bob)
        async with asyncio.timeout(NOTICED_WITHIN_S):
            for ended in endings:
                await ended()


@pytest.mark.parametrize(
    "change", ["scope = 'read'", "expires_at = now()", "expires_at = now() + interval '1 s'"]
)
async def test_a_key_that_expires_or_gets_a_smaller_scope_ends_its_streams(people: People, change: str):
    ada = await people.sign_up()
    key = await ada.make_key()
    async with AsyncExitStack() as stack:
        at = Opened(people.second.url, await sandbox_of(ada), key_headers(key), stack, 0, 0)
        ended = await exec_stream(at)
        await run_sql(
            people.database_url,
            f"UPDATE team_api_keys SET {change} WHERE key_prefix = '{key['key_prefix']}'",
        )
        async with asyncio.timeout(NOTICED_WITHIN_S + 1):
            await ended()


async def test_a_smaller_role_ends_the_event_stream_that_showed_more(people: People):
    ada = await people.sign_up()
    bob = await ada.add(await people.sign_up(), role="admin")
    async with AsyncExitStack() as stack:
        at = Opened(people.second.url, "", token_headers(bob), stack, 0, 0)
        ended = await events(at)
        path = f"/v1/teams/{ada.team_id}/members/{bob.user_id}"
        assert (await ada.patch(path, {"role": "member"})).status_code == 204
        async with asyncio.timeout(NOTICED_WITHIN_S):
            await ended()


async def test_a_client_that_does_not_read_is_no_reason_to_go_on(people: People):
    ada = await people.sign_up()
    key = await ada.make_key()
    path = await sandbox_of(ada)
    async with AsyncExitStack() as stack:
        at = Opened(people.second.url, path, key_headers(key), stack, 0, 0)
        flood = await at.socket(
            f"{path}/exec/stream", type="start", cmd="yes", on_disconnect="kill", encoding="binary"
        )
        pid = json.loads(await flood.recv())["pid"]
        flood.transport.pause_reading()
        assert (await ada.delete(f"/v1/api-keys/{key['id']}")).status_code == 204
        async with asyncio.timeout(NOTICED_WITHIN_S), client(people.url, None) as api:
            api.headers.update(token_headers(ada))
            await wait_gone(api, path, pid)
        flood.transport.abort()


async def test_links_and_public_ports_outlive_the_key_that_made_them(people: People):
    ada = await people.sign_up()
    key = await ada.make_key()
    path = await sandbox_of(ada)
    sandbox_id = path.rpartition("/")[2]
    async with AsyncExitStack() as stack, socket_program(echo_messages) as port:
        async with client(people.url, None) as api:
            answer = await api.post(f"{path}/ports/{port}/link", json={}, headers=dict(key_headers(key)))
        query = answer.json()["url"].partition("?")[2]
        url = people.second.url.replace("http:", "ws:") + f"/?{query}"
        host = {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": str(port)}
        visit = await stack.enter_async_context(websockets.connect(url, additional_headers=host, proxy=None))
        assert (await ada.delete(f"/v1/api-keys/{key['id']}")).status_code == 204
        await people.second.control.open_calls.check_once()
        await visit.send("still")
        assert await visit.recv() == "still"


async def test_thousands_of_open_calls_cost_two_statements_a_look(people: People):
    """The cost is bounded by the distinct credentials, a thousand of which are one statement."""
    database = people.second.control.database
    ada = await people.sign_up()
    key = ApiKey.parse((await ada.make_key())["key"], Operation.READ_SANDBOXES)
    unknown = [ApiKey(f"{number:064x}", Operation.READ_SANDBOXES) for number in range(1500)]
    nobody = [UserToken(UserId.new(), TeamId.parse(ada.team_id), SessionId.new()) for _ in range(1500)]
    assert set(await find_callers(database, [*unknown, *nobody, key])) == {key}

    calls = OpenCalls(database)
    ended: list[AccessLost] = []
    with ExitStack() as stack:
        for credential in [*unknown, *nobody, *[key] * 2000]:
            stack.enter_context(calls.watched(credential, lambda _: True, ended.append))
        await calls.check_once()
    assert len(ended) == 3000
