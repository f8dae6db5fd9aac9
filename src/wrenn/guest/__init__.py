"""Client of the guest agent `envd`. The guest is hostile: every answer is bounded in size and time and checked.

`connect.py` speaks Connect RPC, `commands.py` runs programs, `files.py` moves files, `watch.py` tells their changes, `ready.py` hands out identity.
"""

from wrenn.guest.commands import CommandLine, Commands, ExecResult, ProcessInfo
from wrenn.guest.connect import GuestConnection
from wrenn.guest.files import Download, Files, Part, WriteOptions
from wrenn.guest.ready import Identity, hold, initialise, let_go
from wrenn.guest.watch import FileEvent, watch

__all__ = [
    "CommandLine",
    "Commands",
    "Download",
    "ExecResult",
    "FileEvent",
    "Files",
    "GuestConnection",
    "Identity",
    "Part",
    "ProcessInfo",
    "WriteOptions",
    "hold",
    "initialise",
    "let_go",
    "watch",
]
