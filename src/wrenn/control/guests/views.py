"""JSON of the messages about processes and files, without the fields that have no value."""

from __future__ import annotations

from wrenn.control.guests.inspection import ListeningPort
from wrenn.control.guests.records import StartedProcess
from wrenn.control.hosts import FileInfo, GuestProcess, RunningProcess


def started_json(started: StartedProcess) -> dict[str, object]:
    """`Started`."""
    return {"sandbox_id": str(started.sandbox_id), "cmd": started.cmd, "pid": started.pid, "tag": started.tag}


def process_json(process: RunningProcess) -> dict[str, object]:
    """`ProcessView`."""
    fields: dict[str, object] = {"pid": process.pid, "cmd": process.cmd}
    if process.tag:
        fields["tag"] = process.tag
    if process.args:
        fields["args"] = list(process.args)
    return fields


def guest_process_json(process: GuestProcess) -> dict[str, object]:
    """`GuestProcessView`."""
    fields: dict[str, object] = {
        "pid": process.pid,
        "ppid": process.ppid,
        "user": process.user,
        "state": process.state,
        "command": process.command,
        "cpu_ms": process.cpu_ms,
        "memory_bytes": process.memory_b,
        "threads": process.threads,
        "managed": process.is_managed,
    }
    return fields | ({"tag": process.tag} if process.tag else {})


def port_json(port: ListeningPort, host: str) -> dict[str, object]:
    """`PortView`; `host` is what the host names of the sandbox's ports end with."""
    fields: dict[str, object] = {
        "port": port.port,
        "addresses": list(port.addresses),
        "public": port.is_public,
        "host": f"{port.port}-{host}",
    }
    if port.pid:
        fields["pid"] = port.pid
    if port.name:
        fields["name"] = port.name
    return fields


def file_json(file: FileInfo) -> dict[str, object]:
    """`FileEntry`."""
    fields: dict[str, object] = {
        "name": file.name,
        "path": file.path,
        "type": file.type,
        "kind": file.kind,
        "size": file.size_b,
        "mode": file.mode,
        "permissions": file.permissions,
        "owner": file.owner,
        "group": file.group,
        "modified_at": file.modified_at_unix,
    }
    if file.symlink_target:
        fields["symlink_target"] = file.symlink_target
    if file.is_broken:
        fields["broken"] = True
    return fields
