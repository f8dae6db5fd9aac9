"""Messages about hosts (platform reference §1.9)."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, Field

from wrenn.control.hosts import HostView
from wrenn.control.http import RequestBody, plain_text

TAG: Final = re.compile(r"[a-z0-9._-]{1,64}")
TAGS_LIMIT: Final = 32
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_LABEL_LIMIT: Final = 64


def _tag(value: str) -> str:
    if TAG.fullmatch(value) is None:
        raise ValueError("must be 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    return value


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError(
            "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', and begin and end with a letter or digit"
        )
    return value


Label = Annotated[str, Field(max_length=_LABEL_LIMIT), AfterValidator(plain_text)]


class CreateHost(RequestBody):
    """The host to create."""

    type: Literal["regular", "byoc"] = Field(
        description="`regular`: the platform's, for its admins; `byoc`: of a team"
    )
    team_id: str | None = Field(None, description="Of a `byoc` host: its team")
    name: Annotated[str, AfterValidator(_name)] | None = Field(
        None, description="Unique among the team's hosts, or the regular ones; absent: one is made up"
    )
    provider: Label = ""
    availability_zone: Label = ""


class AddTag(RequestBody):
    """A tag."""

    tag: Annotated[str, AfterValidator(_tag)] = Field(description="1 to 64 of a-z, 0-9, `.`, `_` and `-`")


class HostWithToken(BaseModel):
    """A host and the token with which its agent registers."""

    host: HostView
    registration_token: str = Field(description="Valid for an hour and for one registration; shown only here")


class DeletePreview(BaseModel):
    """What is lost with a forced deletion of the host."""

    host: HostView
    sandbox_ids: list[str] = Field(description="Its sandboxes that have not ended, paused ones too")
    template_count: int = Field(description="How many templates (snapshots) lie on it, and only there")
    template_names: list[str] = Field(description="Their names")
