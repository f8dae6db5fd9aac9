"""Tables of samples of sandboxes, and of what each team has over time."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)

from wrenn.control.db import metadata

PLATFORM: Final = UUID(int=0)
"""The team of rows that are about all teams together. There is one for each time at which samples were taken: a team that has
none of that time had nothing then."""

_READ_BY_TEAM: Final = ["running_count", "vcpus", "memory_mb"]
"""In the index too: the rows of one team lie far apart."""

# Packed samples (`wrenn.protocol.samples`) as a host sent them: one row is read where a row for each sample would be 1200.
sandbox_samples = Table(
    "sandbox_samples",
    metadata,
    Column("sandbox_id", Uuid, ForeignKey("sandboxes.id"), primary_key=True),
    Column("tier", Text, primary_key=True),
    Column("first_ms", BigInteger, primary_key=True),
    Column("last_ms", BigInteger, nullable=False),
    Column("samples", LargeBinary, nullable=False),
)
Index("ix_sandbox_samples_last_ms", sandbox_samples.c.last_ms)

# Every ten seconds. Sums over live sandboxes: `running_count` and `vcpus` of those that run, `memory_mb` with half of what
# paused ones have, `disk_mb` of all. `covers_ms`: since the sample before.
team_samples = Table(
    "team_samples",
    metadata,
    Column("team_id", Uuid),
    Column("at", TIMESTAMP(timezone=True)),
    Column("covers_ms", Integer, nullable=False),
    Column("running_count", Integer, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", BigInteger, nullable=False),
    Column("disk_mb", BigInteger, nullable=False),
    PrimaryKeyConstraint("team_id", "at", postgresql_include=_READ_BY_TEAM),
)
# Rows are added in the order of time, so that a few kilobytes of index find the old ones.
Index(
    "ix_team_samples_at", team_samples.c.at, postgresql_using="brin", postgresql_with={"autosummarize": "on"}
)

# The highest values in each five minutes.
team_usage = Table(
    "team_usage",
    metadata,
    Column("team_id", Uuid),
    Column("at", TIMESTAMP(timezone=True)),
    Column("running_count", Integer, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", BigInteger, nullable=False),
    PrimaryKeyConstraint("team_id", "at", postgresql_include=_READ_BY_TEAM),
)
Index("ix_team_usage_at", team_usage.c.at, postgresql_using="brin", postgresql_with={"autosummarize": "on"})

# By days of UTC.
team_usage_days = Table(
    "team_usage_days",
    metadata,
    Column("team_id", Uuid, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("cpu_seconds", BigInteger, nullable=False),
    Column("ram_mb_seconds", BigInteger, nullable=False),
    Column("disk_mb_seconds", BigInteger, nullable=False),
)

# What became of creates in each minute: `running`, or the code of an error. Sums of milliseconds, and the slowest start.
create_minutes = Table(
    "create_minutes",
    metadata,
    Column("at", TIMESTAMP(timezone=True), primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("place_ms", BigInteger, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("slowest_ms", BigInteger, nullable=False),
)
