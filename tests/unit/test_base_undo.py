"""Undo: newest first, whatever happens."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from wrenn.base import undo as undo_module
from wrenn.base.undo import Undo


async def _note(done: list[str], name: str) -> None:
    done.append(name)


async def test_steps_run_newest_first_when_the_body_fails() -> None:
    done: list[str] = []

    async def bring_up() -> None:
        async with Undo() as undo:
            undo.push("first", partial(_note, done, "first"))
            undo.push("second", partial(_note, done, "second"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await bring_up()
    assert done == ["second", "first"]


async def test_nothing_is_undone_after_keep() -> None:
    done: list[str] = []
    async with Undo() as undo:
        undo.push("step", partial(_note, done, "step"))
        undo.keep()
    assert done == []


async def test_leaving_without_keep_undoes() -> None:
    done: list[str] = []
    async with Undo() as undo:
        undo.push("step", partial(_note, done, "step"))
    assert done == ["step"]


async def test_a_failing_step_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def fail() -> None:
        raise OSError("busy")

    with caplog.at_level(logging.ERROR):
        async with Undo() as undo:
            undo.push("first", partial(_note, done, "first"))
            undo.push("second", fail)
    assert done == ["first"]
    assert [record.getMessage() for record in caplog.records] == ["undo step failed"]
    assert vars(caplog.records[0])["step"] == "second"


async def test_a_second_cancellation_does_not_cut_off_a_running_step() -> None:
    done: list[str] = []
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        inside.set()
        await go_on.wait()
        done.append("slow")

    async def bring_up() -> None:
        async with Undo() as undo:
            undo.push("first", partial(_note, done, "first"))
            undo.push("slow", slow)
            await asyncio.Event().wait()

    task = asyncio.create_task(bring_up())
    await asyncio.sleep(0)
    task.cancel()
    await inside.wait()
    task.cancel()  # the step is half way through
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert done == ["slow", "first"]
    assert task.cancelled()


async def test_a_step_that_hangs_is_given_up_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_module, "STEP_TIMEOUT_S", 0.01)
    done: list[str] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async with Undo() as undo:
            undo.push("first", partial(_note, done, "first"))
            undo.push("hangs", hang)
    assert done == ["first"]
