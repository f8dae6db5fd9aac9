"""How long a host that refused a sandbox comes last (`control/sandboxes/reconcile/back_off.py`)."""

from __future__ import annotations

import asyncio

from wrenn.base.ids import HostId
from wrenn.control.sandboxes import BackOff
from wrenn.testing import virtual_time
from wrenn.testing.virtual_time import VirtualTimeLoop


def test_a_host_comes_last_for_twice_as_long_with_each_refusal_until_it_starts_a_sandbox() -> None:
    async def main() -> None:
        back_off, host, other = BackOff(), HostId.new(), HostId.new()
        assert back_off.hosts() == frozenset()
        for lasts_s in (5, 10, 20, 40, 60, 60):
            back_off.refused(host)
            await asyncio.sleep(lasts_s - 1)
            assert back_off.hosts() == {host}
            await asyncio.sleep(2)
            assert back_off.hosts() == frozenset()
        back_off.refused(host)
        back_off.refused(other)
        back_off.started(host)
        assert back_off.hosts() == {other}
        # Not tried for long, it starts anew.
        back_off.refused(host)
        await asyncio.sleep(200)
        assert back_off.hosts() == frozenset()
        back_off.refused(host)
        await asyncio.sleep(6)
        assert back_off.hosts() == frozenset()

    virtual_time.run(main, lambda: VirtualTimeLoop(lambda: 0.0))


def test_the_hosts_that_are_remembered_are_bounded() -> None:
    async def main() -> None:
        back_off = BackOff()
        for _ in range(10_003):
            back_off.refused(HostId.new())
        assert len(back_off.hosts()) == 10_000

    virtual_time.run(main, lambda: VirtualTimeLoop(lambda: 0.0))
