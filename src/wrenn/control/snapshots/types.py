"""Messages of the snapshot endpoints (platform reference §1.8)."""

from __future__ import annotations

from pydantic import Field

from wrenn.control.http import RequestBody


class CreateSnapshot(RequestBody):
    """The sandbox to snapshot, and the name of the template."""

    sandbox_id: str
    name: str | None = Field(None, description="Default `template-` + 8 hex digits")
