"""Messages of limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import BaseModel, Field, StrictInt

from wrenn.control.http import RequestBody
from wrenn.control.quotas.limits import Limits
from wrenn.control.quotas.quota_status import QuotaStatus

_Count = Annotated[StrictInt | None, Field(ge=0, le=2**31 - 1)]


class SetLimits(RequestBody):
    """All limits of a team. What is absent is the installation's default; 0 is 0."""

    running_sandboxes: _Count = Field(None, description="Neither ended nor paused")
    total_sandboxes: _Count = Field(None, description="With the paused ones")
    vcpus: _Count = Field(None, description="Of the running ones together")
    memory_mb: _Count = Field(None, description="Of the running ones together")
    templates: _Count = Field(None, description="With snapshots, and with each version that has a tag")
    snapshot_mb: _Count = Field(
        None,
        description="Files of its templates on disk, and states of its sandboxes and snapshots in the store",
    )
    creates_per_second: _Count = Field(None, description="New sandboxes within any second")

    @property
    def limits(self) -> Limits:
        """As a value."""
        return Limits(**self.model_dump())


class LimitsView(BaseModel):
    """Limits of a team. What is absent has no limit, or, of a team's own limits, is the installation's default."""

    running_sandboxes: int | None = None
    total_sandboxes: int | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
    templates: int | None = None
    snapshot_mb: int | None = None
    creates_per_second: int | None = None


class UsageView(BaseModel):
    """What a team has now."""

    running_sandboxes: int
    total_sandboxes: int
    vcpus: int
    memory_mb: int
    templates: int
    snapshot_mb: int
    creates_per_second: int = Field(description="Within the last second")


class OwnerView(BaseModel):
    """What the team's owner may have over all own teams, and has."""

    limits: LimitsView
    usage: UsageView


class StandingView(BaseModel):
    """What the team may have, and what it has."""

    limits: LimitsView
    usage: UsageView
    owner: OwnerView = Field(description="The same of the team's owner, over all teams that the owner owns")


def limits_json(limits: Limits) -> dict[str, object]:
    """Convert limits to the JSON of `LimitsView`."""
    return {name: value for name, value in asdict(limits).items() if value is not None}


def quota_status_json(status: QuotaStatus) -> dict[str, object]:
    """Convert a quota status to the JSON of `StandingView`."""
    fields: dict[str, object] = {"limits": limits_json(status.limits), "usage": asdict(status.usage)}
    if status.owner is not None:
        fields["owner"] = quota_status_json(status.owner)
    return fields
