"""Messages about API keys (platform reference §1.6)."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, Field

from wrenn.control.auth import Scope
from wrenn.control.http import RequestBody
from wrenn.control.identity import KeyFormat
from wrenn.control.users import Name


class CreateKey(RequestBody):
    """A new API key."""

    name: Name = "Unnamed API Key"
    format: KeyFormat = Field(
        KeyFormat.WRENN,
        description="`e2b`: `e2b_` and 40 hex digits, which clients of e2b expect; the key works in the same way",
    )
    scope: Scope = Field(
        Scope.FULL,
        description="`full`; `sandboxes`: sandboxes and snapshots only; `read`: GET only",
    )
    expires_at: AwareDatetime | None = Field(None, description="Absent: never")


class KeyView(BaseModel):
    """An API key. Optional fields are absent where they have no value."""

    id: str
    team_id: str
    name: str
    key_prefix: str
    scope: Scope
    created_by: str
    creator_email: str
    created_at: datetime
    last_used: datetime | None = Field(None, description="To the minute")
    expires_at: datetime | None = None


class NewKey(KeyView):
    """A new API key, with its text."""

    key: str = Field(description="Shown this once")
