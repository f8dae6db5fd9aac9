"""Messages of the template endpoints (platform reference §1.8)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from wrenn.control.http import wire_time
from wrenn.control.templates.records import HostBuiltTemplate, Template


class TemplateView(BaseModel):
    """A version of a template, from which sandboxes can be made. Optional fields are absent where they have no value."""

    id: str | None = Field(None, description="UUID; absent: hosts built it themselves")
    name: str
    tags: list[str] | None = Field(None, description="`name:tag` refers to it; `name` alone is `name:latest`")
    type: Literal["base", "snapshot"]
    vcpus: int | None = Field(
        None, description="Of a snapshot: that of its sandboxes. Of a base: the default"
    )
    memory_mb: int | None = Field(None, description="Like `vcpus`")
    disk_size_mb: int | None = Field(None, description="Like `vcpus`; of a base also the least")
    size_bytes: int = Field(description="Its own files on the disk; 0: not known")
    default_user: str | None = Field(None, description="Of commands for which the request names none")
    default_env: dict[str, str] | None = Field(None, description="Environment variables of its sandboxes")
    working_dir: str | None = Field(None, description="Of commands for which the request names none")
    labels: dict[str, str] | None = None
    build_id: str | None = Field(None, description="The build that made it")
    created_at: datetime
    platform: bool = Field(description="For all teams; no team can change it")


class AdminTemplateView(TemplateView):
    """A template with its owner."""

    team_id: str | None = Field(None, description="Absent: the platform's")


def template_json(template: Template | HostBuiltTemplate) -> dict[str, object]:
    """Convert a template to the JSON of `TemplateView`."""
    if isinstance(template, HostBuiltTemplate):
        return {
            "name": template.name,
            "type": "base",
            "size_bytes": 0,
            "created_at": wire_time(template.created_at),
            "platform": True,
        }
    optional: dict[str, object] = {
        "default_user": template.defaults.user,
        "default_env": dict(template.defaults.env),
        "working_dir": template.defaults.working_dir,
        "labels": dict(template.labels),
        "build_id": str(template.build_id) if template.build_id else "",
    }
    return {
        "id": str(template.template_id),
        "name": template.name,
        "tags": list(template.tags),
        "type": template.type.value,
        "vcpus": template.vcpus,
        "memory_mb": template.memory_mb,
        "disk_size_mb": template.disk_size_mb,
        "size_bytes": template.size_bytes,
        **{name: value for name, value in optional.items() if value},
        "created_at": wire_time(template.created_at),
        "platform": template.is_platform,
    }


def admin_template_json(template: Template) -> dict[str, object]:
    """Convert a template to the JSON of `AdminTemplateView`."""
    owner = {} if template.team_id is None else {"team_id": str(template.team_id)}
    return template_json(template) | owner
