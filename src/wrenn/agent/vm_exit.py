"""Waits for a guest, but no longer than its VM runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from wrenn.base.errors import AgentFailure
from wrenn.vm import Machine


async def fail_if_vm_exits(vm: Machine, work: Awaitable[None]) -> None:
    """Wait for `work`; raise AgentFailure if the VM ends first.

    Raises:
        AgentFailure: the VM ended first; `context` has the ends of its log and console.
    """
    task = asyncio.ensure_future(work)
    ended = asyncio.ensure_future(vm.wait_exit())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise AgentFailure(
                "The virtual machine ended while it started.",
                context={"log": vm.log_tail(), "console": (await vm.console())[-2000:]},
            )
        task.result()
    finally:
        for pending in (task, ended):
            pending.cancel()
        await asyncio.wait({task, ended})
