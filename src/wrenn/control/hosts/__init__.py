"""Hosts: where sandboxes run, how to call their agents, and what the monitor knows of them.

Only this package uses the agents' protocol; other features use the values and calls below.
"""

from wrenn.control.hosts.addresses import ADDRESS_LIMIT, HostAddress, address_of
from wrenn.control.hosts.authority import CSR_LIMIT_B, Authority, CaIdentity, public_key_of
from wrenn.control.hosts.client import HostClient, HostClients, PortPlace
from wrenn.control.hosts.execs import HostNotResponding
from wrenn.control.hosts.finish_transfer import TRANSFER_WAIT_S, finish_transfer
from wrenn.control.hosts.heartbeat_store import ReceivedHeartbeat
from wrenn.control.hosts.heartbeats import Heartbeats
from wrenn.control.hosts.messages import SIGNALS, heartbeat_of
from wrenn.control.hosts.monitor import Monitor
from wrenn.control.hosts.pki import ensure_pki
from wrenn.control.hosts.recent import RecentHosts
from wrenn.control.hosts.records import (
    Drain,
    HostDeleted,
    HostDraining,
    HostNotConnected,
    HostRecord,
    Machine,
    NewHost,
    RefreshToken,
    host_action,
)
from wrenn.control.hosts.renewal import CertificateRenewal
from wrenn.control.hosts.replica import Replica
from wrenn.control.hosts.rotation import CaRotation, Step
from wrenn.control.hosts.rounds import REMOVALS_A_ROUND, FirstMet, HostRounds
from wrenn.control.hosts.store import all_hosts, host_of, select_hosts
from wrenn.control.hosts.streams import HostStream
from wrenn.control.hosts.tables import hosts
from wrenn.control.hosts.tags import TAG, TAGS_LIMIT, HostTag
from wrenn.control.hosts.transfers import Change, Download
from wrenn.control.hosts.types import (
    Command,
    ContainerSource,
    DrainPolicy,
    FileInfo,
    GuestProcess,
    GuestProcesses,
    Host,
    HostContainerConfig,
    HostEndpoint,
    HostHeartbeat,
    HostImage,
    HostImageState,
    HostNetworkPolicy,
    HostReport,
    HostSandbox,
    HostSandboxSpec,
    HostSandboxState,
    HostSnapshot,
    HostStatus,
    HostSteps,
    HostTransfer,
    HostTransferState,
    HostType,
    ImageSource,
    Listener,
    RunningProcess,
)
from wrenn.control.hosts.upload_slots import UploadSlots
from wrenn.control.hosts.views import HostView, host_json
from wrenn.control.hosts.visits import Visits
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, ERROR_TEXT_HEADER, MethodUnknown
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
    "ADDRESS_LIMIT",
    "CSR_LIMIT_B",
    "ERROR_CODE_HEADER",
    "ERROR_TEXT_HEADER",
    "OUTPUTS",
    "REMOVALS_A_ROUND",
    "SIGNALS",
    "TAG",
    "TAGS_LIMIT",
    "TRANSFER_WAIT_S",
    "AttachProcess",
    "Authority",
    "CaIdentity",
    "CaRotation",
    "CertificateRenewal",
    "Change",
    "Command",
    "ContainerSource",
    "Download",
    "Drain",
    "DrainPolicy",
    "FileInfo",
    "FirstMet",
    "GuestProcess",
    "GuestProcesses",
    "Heartbeats",
    "Host",
    "HostAddress",
    "HostClient",
    "HostClients",
    "HostContainerConfig",
    "HostDeleted",
    "HostDraining",
    "HostEndpoint",
    "HostHeartbeat",
    "HostImage",
    "HostImageState",
    "HostNetworkPolicy",
    "HostNotConnected",
    "HostNotResponding",
    "HostRecord",
    "HostReport",
    "HostRounds",
    "HostSandbox",
    "HostSandboxSpec",
    "HostSandboxState",
    "HostSnapshot",
    "HostStatus",
    "HostSteps",
    "HostStream",
    "HostTag",
    "HostTransfer",
    "HostTransferState",
    "HostType",
    "HostView",
    "ImageSource",
    "Kind",
    "Listener",
    "Machine",
    "MethodUnknown",
    "Monitor",
    "NewHost",
    "PortPlace",
    "ProcessEnd",
    "ReceivedHeartbeat",
    "RecentHosts",
    "RefreshToken",
    "Replica",
    "RunningProcess",
    "Size",
    "StartProcess",
    "Step",
    "UploadSlots",
    "Visits",
    "address_of",
    "all_hosts",
    "ensure_pki",
    "finish_transfer",
    "heartbeat_of",
    "host_action",
    "host_json",
    "host_of",
    "hosts",
    "parse_end",
    "parse_json",
    "public_key_of",
    "select_hosts",
]
