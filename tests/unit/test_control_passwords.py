"""Work with passwords is done in turns."""

from __future__ import annotations

import asyncio

import pytest

from wrenn.base.errors import RateLimited
from wrenn.control.users import passwords as module
from wrenn.control.users.passwords import Passwords


async def test_few_have_a_turn_at_once_and_all_get_one() -> None:
    passwords = Passwords()
    inside = most = done = 0

    async def work() -> None:
        nonlocal inside, most, done
        async with passwords.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            done += 1

    try:
        await asyncio.gather(*(work() for _ in range(module._WAITING_LIMIT)))
    finally:
        passwords.close()
    assert (most, done) == (module._TURNS, module._WAITING_LIMIT)


async def test_a_request_while_too_many_wait_must_be_retried() -> None:
    passwords = Passwords()
    go_on = asyncio.Event()

    async def work() -> None:
        async with passwords.turn():
            await go_on.wait()

    waiting = [asyncio.create_task(work()) for _ in range(module._WAITING_LIMIT)]
    try:
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="Try again"):
            await work()
        # Who has gone makes room for another.
        waiting[-1].cancel()
        await asyncio.wait({waiting[-1]})
        waiting[-1] = asyncio.create_task(work())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*waiting)
    finally:
        passwords.close()
