"""The agent's relation to its control plane: registration, credentials, certificates and heartbeats (docs/design/hosts.md)."""

from wrenn.agent.enrolment.control_link import ControlLink, heartbeat_once
from wrenn.agent.enrolment.credentials import Credentials, CredentialsFile
from wrenn.agent.enrolment.pending import PendingRegistration
from wrenn.agent.enrolment.register import NotRegistered, enrolled, register
from wrenn.agent.enrolment.server_tls import ServerTls

__all__ = [
    "ControlLink",
    "Credentials",
    "CredentialsFile",
    "NotRegistered",
    "PendingRegistration",
    "ServerTls",
    "enrolled",
    "heartbeat_once",
    "register",
]
