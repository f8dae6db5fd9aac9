"""Messages of the snapshot endpoints (platform reference §1.8)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from wrenn.control.http import RequestBody, wire_time
from wrenn.control.snapshots.records import PlatformTemplate, Template


class CreateSnapshot(RequestBody):
    """The sandbox to snapshot, and the name of the template."""

    sandbox_id: str
    name: str | None = Field(None, description="Default `template-` + 8 hex digits")


class TemplateView(BaseModel):
    """A name from which sandboxes can be made. Optional fields are absent where they have no value."""

    name: str
    type: Literal["base", "snapshot"]
    vcpus: int | None = Field(None, description="A sandbox from a snapshot has the snapshot's")
    memory_mb: int | None = Field(None, description="A sandbox from a snapshot has the snapshot's")
    disk_size_mb: int | None = Field(None, description="A sandbox from a snapshot has the snapshot's")
    size_bytes: int = Field(description="Its own files on the disk; 0: not known")
    created_at: datetime
    platform: bool = Field(description="For all teams, and not to be removed")


def template_json(template: Template | PlatformTemplate) -> dict[str, object]:
    """Convert a template to the JSON of `TemplateView`."""
    if isinstance(template, PlatformTemplate):
        return {
            "name": template.name,
            "type": "base",
            "size_bytes": 0,
            "created_at": wire_time(template.created_at),
            "platform": True,
        }
    return {
        "name": template.name,
        "type": "snapshot",
        "vcpus": template.vcpus,
        "memory_mb": template.memory_mb,
        "disk_size_mb": template.disk_size_mb,
        "size_bytes": template.size_bytes,
        "created_at": wire_time(template.created_at),
        "platform": False,
    }
