"""Constants of the public REST API, shared by server and clients; standard library only."""

from __future__ import annotations

import re
from typing import Final

from wrenn.base.units import MIB

API_KEY_HEADER: Final = "X-API-Key"
HOST_CREDENTIAL_HEADER: Final = "X-Host-Token"
HOST_RENEWAL_HEADER: Final = "X-Host-Renew"
HOST_OPENS_SEALED_HEADER: Final = "X-Host-Opens-Sealed"
"""Of calls about images by a host that can encrypt and decrypt objects of the store."""
REQUEST_ID_HEADER: Final = "X-Request-Id"
IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"

SANDBOX_HEADER: Final = "X-Wrenn-Sandbox"
PORT_HEADER: Final = "X-Wrenn-Port"
"""Headers that select a port of a sandbox where its host name cannot be used."""
SOURCE_HEADER: Final = "X-Wrenn-Source"
"""Response header with the value `sandbox` on what a program answered whose port was selected by headers."""

SANDBOXES_PREFIX: Final = "/v1/sandboxes"
CAPSULES_PREFIX: Final = "/v1/capsules"
"""The same endpoints as `/v1/sandboxes`, under the name that public clients use."""
SNAPSHOTS_PREFIX: Final = "/v1/snapshots"
TEMPLATES_PREFIX: Final = "/v1/templates"
BUILDS_PREFIX: Final = "/v1/builds"
ADMIN_TEMPLATES_PREFIX: Final = "/v1/admin/templates"
ADMIN_BUILDS_PREFIX: Final = "/v1/admin/builds"
AUDIT_PREFIX: Final = "/v1/audit-logs"
EVENTS_PREFIX: Final = "/v1/events"
LIMITS_PREFIX: Final = "/v1/limits"
USAGE_PREFIX: Final = "/v1/usage"
HOSTS_PREFIX: Final = "/v1/hosts"
STORE_PREFIX: Final = "/v1/store"
DOWNLOADS_PREFIX: Final = "/v1/downloads"
ADMIN_AUDIT_PREFIX: Final = "/v1/admin/audit-logs"
ADMIN_TEAMS_PREFIX: Final = "/v1/admin/teams"
E2B_PREFIX: Final = "/e2b"
"""The API of e2b, over the same services."""
E2B_UPLOADS_PREFIX: Final = f"{E2B_PREFIX}/templates/uploads/"
"""What follows is the secret of a link."""

CURSOR_HEADER: Final = "X-Next-Cursor"
"""Response header of a list: the cursor of the next page; absent on the last page."""

PLATFORM_METADATA: Final = frozenset(
    {"agent_version", "envd_version", "firecracker_version", "kernel_version", "reason", "vmm_version"}
)
"""Keys that the platform adds to a sandbox's `metadata`."""

API_KEY_START: Final = "wrn_"
E2B_KEY_START: Final = "e2b_"
"""Clients of the e2b API check that their key has this form. It is a key like any other."""
API_KEY_PATTERN: Final = re.compile(rf"{API_KEY_START}[0-9a-f]{{32}}|{E2B_KEY_START}[0-9a-f]{{40}}")
API_KEY_PREFIX_LENGTH: Final = 10
"""Length of the key prefix that is stored in plain text and shown, to tell keys apart."""
TEMPLATE_NAME_PATTERN: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")

JSON_BODY_LIMIT_B: Final = 1 * MIB
METRICS_BODY_LIMIT_B: Final = JSON_BODY_LIMIT_B
"""Limit for the samples of sandboxes that a host sends at once."""
METRICS_SERIES_LIMIT: Final = 1_000
"""Series in them."""
UPLOAD_LIMIT_B: Final = 100 * MIB
"""Limit for `files/write`; `files/stream/write` has none."""
UPLOAD_FORM_LIMIT_B: Final = 64 * 1024
"""Allowance for the multipart form around an upload: boundaries, part headers, the path."""
OUTPUT_LIMIT_B: Final = 16 * MIB
"""Limit for each output stream of a foreground command."""
STREAM_MESSAGE_LIMIT_B: Final = 1 * MIB - 1024
"""Limit for one message of a client on a WebSocket; the control plane forwards it to the host in one message of at most 1 MiB."""
PATH_LIMIT_B: Final = 4096
NAME_LIMIT_B: Final = 255
IDEMPOTENCY_KEY_LIMIT: Final = 255

SHELL: Final = "$SHELL"
"""A command with this name runs the sandbox's shell: bash if the image has it, otherwise sh."""

DEFAULT_TEMPLATE: Final = "minimal"
DEFAULT_VCPUS: Final = 1
DEFAULT_MEMORY_MB: Final = 512
DEFAULT_DISK_SIZE_MB: Final = 5120
"""Default size of a sandbox's disk; the agent prepares disks of this size when it starts."""

EXEC_TIMEOUT_DEFAULT_S: Final = 30
EXEC_TIMEOUT_LIMIT_S: Final = 86400
