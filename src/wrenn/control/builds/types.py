"""Messages of the build endpoints (platform reference §1.11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt

from wrenn.control.builds.records import Build, LogEntry, LogKind
from wrenn.control.http import RequestBody, nul_free_text, wire_time
from wrenn.protocol.api import (
    DEFAULT_DISK_SIZE_MB,
    DEFAULT_MEMORY_MB,
    DEFAULT_TEMPLATE,
    DEFAULT_VCPUS,
    TEMPLATE_NAME_PATTERN,
)

_LINES_LIMIT: Final = 500
_TEXT_LIMIT: Final = 512 * 1024
_ARGS_LIMIT: Final = 128


def _template_name(value: str) -> str:
    if TEMPLATE_NAME_PATTERN.fullmatch(value) is None:
        raise ValueError("must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit")
    return value


_Name = Annotated[str, AfterValidator(_template_name)]
_Text = Annotated[str, Field(max_length=_TEXT_LIMIT), AfterValidator(nul_free_text)]


class CreateBuild(RequestBody):
    """What to build: the lines of a recipe, or a Dockerfile."""

    name: _Name = Field(description="Of the template")
    tag: _Name | None = Field(None, description="Besides `latest`, a tag that the new version gets")
    recipe: list[_Text] | None = Field(None, min_length=1, max_length=_LINES_LIMIT)
    dockerfile: _Text | None = None
    target: _Text | None = Field(
        None, description="The stage of the Dockerfile that is the result, by its name or its place from 0"
    )
    build_args: dict[str, _Text] = Field(default_factory=dict, max_length=_ARGS_LIMIT)
    base_template: str = Field(DEFAULT_TEMPLATE, description="Of a recipe without FROM")
    healthcheck: _Text | None = Field(
        None, description="When it exits with 0, memory and processes are kept in the template too"
    )
    vcpus: StrictInt = DEFAULT_VCPUS
    memory_mb: StrictInt = DEFAULT_MEMORY_MB
    disk_size_mb: StrictInt = DEFAULT_DISK_SIZE_MB
    skip_pre_post: StrictBool = Field(
        default=False, description="Without the steps before and after a recipe; a Dockerfile has none"
    )
    no_cache: StrictBool = Field(
        default=False, description="Run every step, whatever is kept of earlier builds"
    )


class BuildView(BaseModel):
    """A build of a template. Optional fields are absent where they have no value."""

    id: str
    name: str
    tag: str | None = None
    base_template: str
    recipe: list[str]
    is_dockerfile: bool = Field(description="`recipe` is the lines of a Dockerfile")
    healthcheck: str | None = None
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    status: str = Field(description="`pending`, `running`, `success`, `failed` or `cancelled`")
    current_step: int
    total_steps: int
    error: str | None = None
    sandbox_id: str | None = Field(None, description="The sandbox that its steps run in")
    template_id: str | None = Field(None, description="The version that it made")
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None


class BuildStepView(BaseModel):
    """A step that has begun (platform reference §7.5), and what it wrote."""

    step: int
    phase: str
    cmd: str
    stdout: str
    stderr: str
    exit: int | None = Field(None, description="Absent: the step runs no program, or has not ended")
    ok: bool
    elapsed_ms: int
    cached: bool
    ended: bool


def build_json(build: Build) -> dict[str, object]:
    """Convert a build to the JSON of `BuildView`."""
    optional: dict[str, object] = {
        "tag": next((tag for tag in build.tags if tag != "latest"), ""),
        "healthcheck": build.request.healthcheck,
        "error": build.error,
        "sandbox_id": str(build.sandbox_id) if build.sandbox_id else "",
        "template_id": str(build.template_id) if build.template_id else "",
        "started_at": wire_time(build.started_at),
        "completed_at": wire_time(build.completed_at),
    }
    return {
        "id": str(build.build_id),
        "name": build.name,
        "base_template": build.request.base_template,
        "recipe": list(build.request.recipe) or build.request.dockerfile.splitlines(),
        "is_dockerfile": not build.request.recipe,
        "vcpus": build.vcpus,
        "memory_mb": build.memory_mb,
        "disk_size_mb": build.disk_size_mb,
        "status": build.status.value,
        "current_step": build.current_step,
        "total_steps": build.total_steps,
        "created_at": wire_time(build.created_at),
        **{name: value for name, value in optional.items() if value},
    }


class StepsJson:
    """Converts a log, entry by entry, to the JSON of the elements of a list of `BuildStepView`."""

    def __init__(self) -> None:
        self._steps: dict[int, dict[str, Any]] = {}
        self._output: dict[tuple[int, LogKind], list[str]] = {}

    def add(self, entry: LogEntry) -> bytes | None:
        """Add an entry; returns the JSON of its step when that has ended."""
        if entry.kind is LogKind.STEP:
            self._steps[entry.step] = {
                "step": entry.step, "phase": entry.data["phase"], "cmd": entry.data["cmd"], "stdout": "",
                "stderr": "", "ok": False, "elapsed_ms": 0, "cached": False, "ended": False,
            }  # fmt: skip
        elif (step := self._steps.get(entry.step)) is not None:
            if entry.kind in (LogKind.STDOUT, LogKind.STDERR):
                self._output.setdefault((entry.step, entry.kind), []).append(entry.data["text"])
            elif entry.kind is LogKind.END:
                step |= {name: value for name, value in entry.data.items() if value is not None}
                step["ended"] = True
                return self._taken(entry.step)
        return None

    def rest(self) -> Iterator[bytes]:
        """Yield the JSON of the steps that have not ended."""
        for number in list(self._steps):
            yield self._taken(number)

    def _taken(self, number: int) -> bytes:
        step = self._steps.pop(number)
        for kind in (LogKind.STDOUT, LogKind.STDERR):
            step[kind.value] = "".join(self._output.pop((number, kind), ()))
        return json.dumps(step, ensure_ascii=False, separators=(",", ":")).encode()
