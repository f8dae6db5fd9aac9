"""The programs of one machine and their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wrenn.cli.up.daemons import Daemon
from wrenn.cli.up.options import Address

SUPERVISOR: Final = "supervisor"
CONTROL: Final = "control"
AGENT: Final = "agent"

AGENT_PORT_OFFSET: Final = 10
"""Offset of the agent's port from the API's port, so that several installations fit on one machine."""


def agent_address(listen: Address) -> Address:
    """Return the agent's address, on loopback only."""
    port = listen.port + AGENT_PORT_OFFSET
    return Address("127.0.0.1", port if port < 65536 else listen.port - AGENT_PORT_OFFSET)


def services(data_dir: Path, listen: Address, database_url: str) -> tuple[Daemon, ...]:
    """Return the programs in the order in which they are started."""
    place = {"WRENN_DATA_DIR": str(data_dir)}
    agent = str(agent_address(listen))
    return (
        Daemon(AGENT, ("agent",), {**place, "WRENN_AGENT_LISTEN": agent, "WRENN_CP_URL": listen.url}),
        Daemon(
            CONTROL,
            ("control",),
            {**place, "WRENN_LISTEN": str(listen), "DATABASE_URL": database_url},
        ),
    )


def supervisor(data_dir: Path, listen: Address) -> Daemon:
    """Return the program that restarts the others. Its stop timeout covers theirs."""
    arguments = ("supervise", "--data-dir", str(data_dir), "--listen", str(listen))
    return Daemon(SUPERVISOR, arguments, stop_timeout_s=100.0)
