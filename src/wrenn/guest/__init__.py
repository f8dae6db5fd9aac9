"""Client of the guest agent `envd`. The guest is hostile: every response is limited in size and time and validated.

`connect.py` implements Connect RPC, `inspection.py` reads what runs and listens, `commands.py` runs programs, `processes.py` streams their input and
output, `files.py` transfers files, `ports.py` connects to ports of the guest, `watch.py` streams file events,
`figures.py` asks what the guest says about its memory and disk, and `ready.py` freezes a guest's processes for a snapshot and gives a restored guest its identity.
"""

from wrenn.guest.commands import CommandLine, Commands, ExecResult, ProcessInfo, failed_to_start
from wrenn.guest.connect import GuestConnection
from wrenn.guest.exit_events import Exited
from wrenn.guest.figures import GuestFigures, read_figures
from wrenn.guest.files import Download, Files, Part, TreeReading, TreeWriting, WriteOptions
from wrenn.guest.inspection import GuestProcess, GuestProcesses, Inspector, Listener
from wrenn.guest.lifecycle import (
    Identity,
    freeze_processes,
    grow_root,
    initialise,
    settle_disk,
    thaw_processes,
)
from wrenn.guest.ports import GuestPorts, dial_error
from wrenn.guest.processes import Event, FollowedProcess, Output, Processes, Started
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
    "GuestFigures",
    "GuestPorts",
    "GuestProcess",
    "GuestProcesses",
    "Identity",
    "Inspector",
    "Listener",
    "Output",
    "Part",
    "ProcessInfo",
    "Processes",
    "Started",
    "TreeReading",
    "TreeWriting",
    "WriteOptions",
    "dial_error",
    "failed_to_start",
    "freeze_processes",
    "grow_root",
    "initialise",
    "read_figures",
    "settle_disk",
    "thaw_processes",
    "watch",
]
