"""Messages of the snapshot endpoints (platform reference §1.8)."""

from __future__ import annotations

from pydantic import Field, StrictBool

from wrenn.control.http import RequestBody


class CreateSnapshot(RequestBody):
    """The sandbox to snapshot, and the name of the template."""

    sandbox_id: str
    name: str | None = Field(None, description="Default `template-` + 8 hex digits")
    keep_memory: StrictBool = Field(
        default=True,
        description="False: only the disk; sandboxes made from it boot. Of a paused sandbox what its pause has kept is taken",
    )
