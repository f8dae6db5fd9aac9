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
"""The agent listens this many ports beside the API, so that several installations fit on one machine."""


def agent_address(listen: Address) -> Address:
    """Where the agent listens: on loopback only."""
    port = listen.port + AGENT_PORT_OFFSET
    return Address("127.0.0.1", port if port < 65536 else listen.port - AGENT_PORT_OFFSET)


def services(data_dir: Path, listen: Address, database_url: str) -> tuple[Daemon, ...]:
    """The programs in the order of their start."""
    place = {"WRENN_DATA_DIR": str(data_dir)}
    agent = str(agent_address(listen))
    return (
        Daemon(AGENT, ("agent",), {**place, "WRENN_AGENT_LISTEN": agent}),
        Daemon(
            CONTROL,
            ("control",),
            {
                **place,
                "WRENN_LISTEN": str(listen),
                "WRENN_AGENT_ADDRESS": agent,
                "DATABASE_URL": database_url,
            },
        ),
    )


def supervisor(data_dir: Path, listen: Address) -> Daemon:
    """The program that keeps the others running. It may need as long as all of them to end."""
    arguments = ("supervise", "--data-dir", str(data_dir), "--listen", str(listen))
    return Daemon(SUPERVISOR, arguments, stop_timeout_s=100.0)
