"""Starts the agent of a joined host: as a systemd service where systemd runs, otherwise as a background process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wrenn.cli.up.daemons import Daemon, end_of_log, running, stop
from wrenn.cli.up.layout import Layout, write_private
from wrenn.cli.up.services import AGENT
from wrenn.linux.command import run

_SYSTEMD: Final = Path("/run/systemd/system")
_UNIT: Final = "wrenn-agent.service"
_UNITS: Final = Path("/etc/systemd/system")
_ENVIRONMENT: Final = Path("/etc/wrenn/agent.env")
_TIMEOUT_S: Final = 90.0


class AgentService:
    """The agent of one data folder, with these settings."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._layout = Layout(data_dir)
        self._has_systemd = _SYSTEMD.is_dir()

    @property
    def runs_as(self) -> str:
        """What the agent runs as, for people."""
        return f"the systemd service {_UNIT}" if self._has_systemd else "a background process"

    @property
    def log(self) -> str:
        """How to read its log."""
        return f"journalctl -u {_UNIT}" if self._has_systemd else str(self._layout.log(AGENT))

    def end_of_log(self) -> str:
        """Return the last lines of the log of a background process; empty for a systemd service."""
        return "" if self._has_systemd else end_of_log(self._layout.log(AGENT))

    async def start(self) -> None:
        """Start the agent in its data folder, which exists, or restart it with these settings. VMs keep running. It is started again after a reboot by systemd only."""
        if self._has_systemd:
            await self._start_unit()
        else:
            await self._start_process()

    async def _start_unit(self) -> None:
        _ENVIRONMENT.parent.mkdir(mode=0o755, exist_ok=True)
        write_private(_ENVIRONMENT, environment_file(self.environment))
        unit = _UNITS / _UNIT
        write_private(unit, unit_file(sys.executable, _ENVIRONMENT))
        unit.chmod(0o644)
        await run(["systemctl", "daemon-reload"], timeout_s=_TIMEOUT_S)
        await run(["systemctl", "enable", "--quiet", _UNIT], timeout_s=_TIMEOUT_S)
        await run(["systemctl", "restart", _UNIT], timeout_s=_TIMEOUT_S)

    async def _start_process(self) -> None:
        daemon = Daemon(AGENT, ("agent",), self.environment)
        former = running(self._layout, AGENT)
        if former is not None:
            await stop(former, timeout_s=daemon.stop_timeout_s)
        daemon.start(self._layout)


def environment_file(environment: Mapping[str, str]) -> str:
    """Return the text of the service's environment file."""
    return "".join(f"{name}={value}\n" for name, value in environment.items())


def unit_file(python: str, environment: Path) -> str:
    """Return the text of the systemd unit.

    The VMs outlive the agent: only its main process is stopped, and their cgroups are not in the unit's.
    """
    return f"""[Unit]
Description=wrenn host agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={python} -m wrenn.cli.main agent --env-file {environment}
# It ends with 0 when its host was deleted, and with 78 when it is not registered.
Restart=on-failure
RestartPreventExitStatus=78
RestartSec=2
KillMode=process
TimeoutStopSec=60
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"""
