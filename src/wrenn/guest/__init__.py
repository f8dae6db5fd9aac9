"""Client of the guest agent `envd`. The guest is hostile: every answer is bounded in size and time and checked.

`connect.py` speaks Connect RPC, `commands.py` runs programs, `files.py` moves files, `ready.py` hands out identity,
`ports.py` reaches the ports of its programs.
"""

from wrenn.guest.commands import CommandLine, Commands, ExecResult, ProcessInfo
from wrenn.guest.connect import GuestConnection
from wrenn.guest.files import Files
from wrenn.guest.ports import GuestPorts, dial_failure
from wrenn.guest.ready import Identity, hold, initialise, let_go

__all__ = [
    "CommandLine",
    "Commands",
    "ExecResult",
    "Files",
    "GuestConnection",
    "GuestPorts",
    "Identity",
    "ProcessInfo",
    "dial_failure",
    "hold",
    "initialise",
    "let_go",
]
