"""Hosts: where sandboxes run, how to call their agents, and what the monitor knows of them."""

from wrenn.control.hosts.client import HostClient, HostClients
from wrenn.control.hosts.execs import ExecNotSupported, HostNotResponding
from wrenn.control.hosts.monitor import Monitor
from wrenn.control.hosts.pki import ensure_pki
from wrenn.control.hosts.store import all_hosts, all_hosts_in, register
from wrenn.control.hosts.streams import HostStream
from wrenn.control.hosts.tables import hosts
from wrenn.control.hosts.transfers import Change, Download
from wrenn.control.hosts.types import Host, HostStatus

__all__ = [
    "Change",
    "Download",
    "ExecNotSupported",
    "Host",
    "HostClient",
    "HostClients",
    "HostNotResponding",
    "HostStatus",
    "HostStream",
    "Monitor",
    "all_hosts",
    "all_hosts_in",
    "ensure_pki",
    "hosts",
    "register",
]
