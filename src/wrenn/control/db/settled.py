"""Finds a moment before which all transactions have ended, for readers that go by time and must not miss a late commit.

Rows get their time before their transaction commits, so a row with an earlier time may appear after one with a later. Here
is found a time such that every transaction which could have written before it has ended.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Text, cast, func, select

from wrenn.control.db.engine import Database

_LONGEST_S: Final = 2.0
"""Ours end within milliseconds. One that lasts longer (somebody's session) does not keep readers out."""
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.05


async def settled_moment(database: Database) -> datetime:
    """The database's time now, when all transactions that write and were under way then have ended.

    Holds for rows whose transaction had its number before it read the clock for them. At most two seconds are waited;
    then what a transaction writes that lasts longer may be missed.
    """
    # `now()` is before the number, and the number above all given out until then.
    number = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
    begun = (await database.execute(select(func.now().label("moment"), number.label("edge")))).one()
    oldest = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
    end = asyncio.get_running_loop().time() + _LONGEST_S
    pause_s = _FIRST_PAUSE_S
    while (await database.execute(select(oldest), repeatable=True)).scalar_one() < begun.edge:
        if asyncio.get_running_loop().time() >= end:
            break
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
    return begun.moment
