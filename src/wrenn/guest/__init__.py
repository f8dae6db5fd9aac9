"""Client of the guest agent `envd`. The guest is hostile: every answer is bounded in size and time and checked.

`connect.py` speaks Connect RPC, `commands.py` runs programs, `processes.py` follows them, `files.py` moves files, `ports.py` reaches
what programs serve, `watch.py` tells changes of files, `ready.py` hands out identity.
"""

from wrenn.guest.commands import CommandLine, Commands, ExecResult, ProcessInfo, not_run
from wrenn.guest.connect import GuestConnection
from wrenn.guest.endings import Exited
from wrenn.guest.files import Download, Files, Part, WriteOptions
from wrenn.guest.ports import GuestPorts, dial_failure
from wrenn.guest.processes import Event, FollowedProcess, Output, Processes, Started
from wrenn.guest.ready import Identity, grow_root, hold, initialise, let_go
from wrenn.guest.watch import FileEvent, watch

__all__ = [
    "CommandLine",
    "Commands",
    "Download",
    "Event",
    "ExecResult",
    "Exited",
    "FileEvent",
    "Files",
    "FollowedProcess",
    "GuestConnection",
    "GuestPorts",
    "Identity",
    "Output",
    "Part",
    "ProcessInfo",
    "Processes",
    "Started",
    "WriteOptions",
    "dial_failure",
    "grow_root",
    "hold",
    "initialise",
    "let_go",
    "not_run",
    "watch",
]
