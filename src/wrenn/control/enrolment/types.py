"""Messages between agents and the control plane (platform reference §1.9)."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, StringConstraints

from wrenn.control.hosts import ADDRESS_LIMIT, CSR_LIMIT_B, HostView
from wrenn.control.http import RequestBody
from wrenn.protocol.api import HOST_RENEWAL_HEADER

HEARTBEAT_LIMIT_B: Final = 128 * 1024
"""A host with as many sandboxes, templates and network slots as are possible sends less than 80 KiB."""
_TOKEN_LIMIT: Final = 256
_ID_LIMIT: Final = 64

Token = Annotated[str, Field(min_length=1, max_length=_TOKEN_LIMIT)]
Address = Annotated[
    str,
    Field(
        min_length=1,
        max_length=ADDRESS_LIMIT,
        description="Where the control plane reaches the agent: `IP:PORT` or `NAME:PORT`, an IPv6 address in brackets",
    ),
]
Csr = Annotated[
    str,
    Field(
        min_length=1,
        max_length=CSR_LIMIT_B,
        description="Certificate signing request in PEM for an ECDSA P-256 key, of which only the public key is taken",
    ),
]
Arch = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{0,32}$")]


class RegisterHost(RequestBody):
    """What an agent registers with."""

    token: Token = Field(description="The registration token")
    address: Address
    csr_pem: Csr
    arch: Arch = ""
    cpu_cores: int = Field(0, ge=0, le=65_536)
    memory_mb: int = Field(0, ge=0, le=2**30)
    disk_gb: int = Field(0, ge=0, le=2**22)
    former_host_id: str | None = Field(
        None,
        max_length=_ID_LIMIT,
        description="Id of the host whose sandboxes or snapshots the machine has; absent: it has none. 409 if there is that host and "
        "the token is for another one, or if the machine has none and the host of the token has sandboxes that ran: nothing changes, and the "
        "token can still be used",
    )


class RefreshHost(RequestBody):
    """What an agent refreshes its credentials with."""

    refresh_token: Token
    csr_pem: Csr
    address: Address | None = Field(None, description="Absent: the one that it has")


class HostCredentials(BaseModel):
    """A host and what its agent identifies itself with. The private key never leaves the agent."""

    host: HostView
    token: str = Field(description="The host token, for the header `X-Host-Token`; valid for 7 days")
    refresh_token: str = Field(
        description="Valid for 60 days. The former one is valid until this one or `token` is used"
    )
    cert_pem: str = Field(description="The agent's server certificate, valid for 7 days")
    ca_cert_pem: str = Field(description="The certificates of all CAs that are trusted")


HEARTBEAT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "Nothing, or a JSON object of at most 128 KiB; fields that are not known are ignored",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": True,
                    "properties": {
                        "host": {
                            "type": "object",
                            "description": "The message `Host` of host.proto in ProtoJSON",
                        },
                        "inventory": {
                            "type": "string",
                            "pattern": "^[0-9a-f]{0,64}$",
                            "description": "Digest of the host's sandboxes and snapshots: it is asked for them when the digest "
                            "changes. Empty: it is asked every few seconds",
                        },
                        "active": {
                            "type": "object",
                            "additionalProperties": {"type": "number"},
                            "description": "Unix time of the last use of sandboxes, by id",
                        },
                    },
                }
            }
        },
    }
}

HEARTBEAT_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    204: {
        "description": "The heartbeat was stored",
        "headers": {
            HOST_RENEWAL_HEADER: {
                "description": "Present when the agent must refresh its credentials now: the internal CA is being changed",
                "schema": {"type": "string"},
            }
        },
    }
}
