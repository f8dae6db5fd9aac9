"""Builds of templates as JSON of the e2b API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from wrenn.control.builds import Build, BuildStatus, LogEntry, LogKind
from wrenn.control.e2b.announced_store import AnnouncedBuild
from wrenn.control.e2b.sandbox_types import ENVD_VERSION
from wrenn.control.e2b.template_names import client_tag
from wrenn.control.e2b.templates import BuildProgress, version_id
from wrenn.control.http import wire_time
from wrenn.control.templates import LATEST, Template

_STATUS: Final = {
    BuildStatus.PENDING: "waiting",
    BuildStatus.RUNNING: "building",
    BuildStatus.SUCCESS: "ready",
    BuildStatus.FAILED: "error",
    BuildStatus.CANCELLED: "error",
}
_BASE: Final = "base"
_FINALIZE: Final = "finalize"
"""What clients call what comes before the first step and after the last one."""
_EXPIRED_REASON: Final[dict[str, object]] = {
    "message": "The build ended long ago, and is not kept any more.",
    "step": _FINALIZE,
    "logEntries": [],
}
_FAILED_LINE: Final = re.compile(r"line (\d+): ")
_UNKNOWN_USER: Final = re.compile(r"invalid username: '[^']*'")


def template_json(versions: Sequence[Template]) -> dict[str, object]:
    """Convert the versions of a template, newest first, to the JSON of `TemplateView`."""
    current = next((version for version in versions if LATEST in version.tags), versions[0])
    return {
        "templateID": current.name,
        "buildID": str(version_id(current)),
        "cpuCount": current.vcpus,
        "memoryMB": current.memory_mb,
        "diskSizeMB": current.disk_size_mb,
        "public": False,
        "aliases": [current.name],
        "names": [current.name],
        "createdAt": wire_time(versions[-1].created_at),
        "updatedAt": wire_time(versions[0].created_at),
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": len(versions),
        "envdVersion": ENVD_VERSION,
        "buildStatus": "ready",
    }


def template_with_builds_json(versions: Sequence[Template]) -> dict[str, object]:
    """Convert the versions of a template, newest first, to the JSON of `TemplateWithBuildsView`."""
    builds = [
        {
            "buildID": str(version_id(version)),
            "status": "ready",
            "createdAt": wire_time(version.created_at),
            "updatedAt": wire_time(version.created_at),
            "finishedAt": wire_time(version.created_at),
            "cpuCount": version.vcpus,
            "memoryMB": version.memory_mb,
            "diskSizeMB": version.disk_size_mb,
            "envdVersion": ENVD_VERSION,
        }
        for version in versions
    ]
    return template_json(versions) | {"builds": builds}


def announced_json(build: AnnouncedBuild) -> dict[str, object]:
    """Convert a build that was announced to the JSON of `TemplateBuildView`."""
    return {
        "templateID": build.name,
        "buildID": str(build.build_id.value),
        "public": False,
        "names": [build.name],
        "tags": [client_tag(tag) for tag in build.tags],
        "aliases": [build.name],
    }


def progress_json(progress: BuildProgress) -> dict[str, object]:
    """Convert a build and a page of its log to the JSON of `BuildStatusView`."""
    announced, build = progress.announced, progress.build
    entries = [_entry_json(entry, announced) for entry in progress.entries]
    answer: dict[str, object] = {
        "templateID": announced.name,
        "buildID": str(announced.build_id.value),
        "status": _status(announced, build),
        "logs": [entry["message"] for entry in entries],
        "logEntries": entries,
    }
    if answer["status"] == "error":
        answer["reason"] = _EXPIRED_REASON if build is None else _reason_json(build, announced)
    return answer


def _status(announced: AnnouncedBuild, build: Build | None) -> str:
    if build is None:
        return "waiting" if announced.step_numbers is None else "error"
    return _STATUS[build.status]


def _entry_json(entry: LogEntry, announced: AnnouncedBuild) -> dict[str, object]:
    message, level = _message(entry, announced)
    return {
        "timestamp": wire_time(entry.at),
        "message": message,
        "level": level,
        "step": _step_of(entry.step, announced),
    }


def _message(entry: LogEntry, announced: AnnouncedBuild) -> tuple[str, str]:
    data = entry.data
    match entry.kind:
        case LogKind.STEP:
            return f"[{entry.step}/{len(announced.step_numbers or ())}] {_shown(entry, announced)}", "info"
        case LogKind.STDOUT:
            return data["text"], "info"
        case LogKind.STDERR:
            return data["text"], "warn"
        case LogKind.NOTE:
            return data["text"], "warn"
        case LogKind.END:
            how = "cached" if data["cached"] else f"{data['elapsed_ms']} ms"
            return ("done" if data["ok"] else "failed") + f" ({how})", "debug" if data["ok"] else "error"


def _shown(entry: LogEntry, announced: AnnouncedBuild) -> str:
    """Return the step as its author wrote it."""
    command = _command_of(entry.step, announced)
    text: str = entry.data["cmd"]
    return f"RUN {command}" if command and text.startswith("RUN ") else text


def _number_of(line: int, announced: AnnouncedBuild) -> int:
    """Return the number of the client's step that carries out this step of the build, whose first line is FROM."""
    numbers: Sequence[int] = announced.step_numbers or ()
    return numbers[line] if line < len(numbers) else len(announced.commands) + 1


def _step_of(step: int, announced: AnnouncedBuild) -> str:
    number = _number_of(step, announced)
    if number == 0:
        return _BASE
    return _FINALIZE if number > len(announced.commands) else str(number)


def _command_of(step: int, announced: AnnouncedBuild) -> str:
    number = _number_of(step, announced)
    return announced.commands[number - 1] if 0 < number <= len(announced.commands) else ""


def _reason_json(build: Build, announced: AnnouncedBuild) -> dict[str, object]:
    message, step = build.error or "The build was cancelled.", build.current_step
    if found := _FAILED_LINE.match(message):
        # Lines count FROM, steps of a build do not.
        step = int(found[1]) - 1
        message = message[found.end() :]
    command = _command_of(step, announced)
    if command:
        unknown = _UNKNOWN_USER.search(message)
        cause = f"unauthenticated: {unknown[0]}" if unknown else message
        message = f"failed to run command '{command}': command failed: {cause}"
    return {"message": message, "step": _step_of(step, announced), "logEntries": []}
