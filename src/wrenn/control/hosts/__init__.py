"""Hosts: where sandboxes run, how to call their agents, and what the monitor knows of them.

Only this package uses the agents' protocol; other features use the values and calls below.
"""

from wrenn.control.hosts.client import HostClient, HostClients, PortPlace
from wrenn.control.hosts.execs import HostNotResponding
from wrenn.control.hosts.messages import SIGNALS
from wrenn.control.hosts.monitor import Monitor
from wrenn.control.hosts.pki import ensure_pki
from wrenn.control.hosts.store import all_hosts, all_hosts_in, register
from wrenn.control.hosts.streams import HostStream
from wrenn.control.hosts.tables import hosts
from wrenn.control.hosts.transfers import Change, Download
from wrenn.control.hosts.types import (
    Command,
    FileInfo,
    Host,
    HostNetworkPolicy,
    HostReport,
    HostSandbox,
    HostSandboxSpec,
    HostSandboxState,
    HostSnapshot,
    HostStatus,
    RunningProcess,
)
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, ERROR_TEXT_HEADER
from wrenn.protocol.host.streams import (
    OUTPUTS,
    AttachProcess,
    Kind,
    ProcessEnd,
    Size,
    StartProcess,
    parse_end,
    parse_json,
)

__all__ = [
    "ERROR_CODE_HEADER",
    "ERROR_TEXT_HEADER",
    "OUTPUTS",
    "SIGNALS",
    "AttachProcess",
    "Change",
    "Command",
    "Download",
    "FileInfo",
    "Host",
    "HostClient",
    "HostClients",
    "HostNetworkPolicy",
    "HostNotResponding",
    "HostReport",
    "HostSandbox",
    "HostSandboxSpec",
    "HostSandboxState",
    "HostSnapshot",
    "HostStatus",
    "HostStream",
    "Kind",
    "Monitor",
    "PortPlace",
    "ProcessEnd",
    "RunningProcess",
    "Size",
    "StartProcess",
    "all_hosts",
    "all_hosts_in",
    "ensure_pki",
    "hosts",
    "parse_end",
    "parse_json",
    "register",
]
