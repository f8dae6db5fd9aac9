"""Messages about hosts (platform reference §1.9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, Field

from wrenn.control.hosts import TAGS_LIMIT, HostTag, HostView
from wrenn.control.http import RequestBody, plain_text, without_none
from wrenn.control.placement import FILTERS, FilterName, Verdict, Wanted, ranked, refusal
from wrenn.control.templates import BAD_NAME
from wrenn.protocol.api import (
    DEFAULT_DISK_SIZE_MB,
    DEFAULT_MEMORY_MB,
    DEFAULT_TEMPLATE,
    DEFAULT_VCPUS,
    TEMPLATE_NAME_PATTERN,
)

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_LABEL_LIMIT: Final = 64


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError(
            "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', and begin and end with a letter or digit"
        )
    return value


def _template(value: str) -> str:
    if TEMPLATE_NAME_PATTERN.fullmatch(value) is None:
        raise ValueError(BAD_NAME.rstrip("."))
    return value


Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
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

    tag: HostTag = Field(description="1 to 64 of a-z, 0-9, `.`, `_` and `-`")


class DrainHost(RequestBody):
    """How the host is to be drained."""

    policy: Annotated[
        Literal["wait", "pause", "move"],
        Field(
            description="`wait`: until its sandboxes have ended or are paused by others; `pause`: they are paused; `move`: they are moved "
            "to other hosts, where those that ran are resumed. One that no other host can take stays as it is"
        ),
    ] = "wait"


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


class ExplainPlacement(RequestBody):
    """The sandbox that would be placed, as in `POST /v1/sandboxes`."""

    template: Annotated[str, AfterValidator(_template)] = Field(DEFAULT_TEMPLATE, max_length=_LABEL_LIMIT)
    vcpus: Size = DEFAULT_VCPUS
    memory_mb: Size = DEFAULT_MEMORY_MB
    disk_size_mb: Size = DEFAULT_DISK_SIZE_MB
    team_id: str | None = Field(
        None, description="Whose sandbox; absent: of a team without hosts and templates of its own"
    )
    host_tags: list[HostTag] = Field(
        default_factory=list[str],
        max_length=TAGS_LIMIT,
        description="Tags that the host must have; may be repeated",
    )


class PlacementHostView(BaseModel):
    """What placement finds about one host."""

    id: str
    name: str
    removed_by: FilterName | None = Field(
        None, description="The first filter that keeps the sandbox from it; absent: it could be there"
    )
    score: float | None = Field(
        None,
        description="The fraction of its scarcest resource that would be left, a little more where the template was started, "
        "a little less for each create under way; the greatest is chosen",
    )
    is_ready: bool | None = Field(
        None, description="It answers, and refused no sandbox lately; others come last, whatever their score"
    )
    sandboxes: int = Field(description="Sandboxes in its memory")
    vcpus: int = Field(description="Their virtual CPUs")
    memory_mb: int = Field(description="Their memory")
    disk_mb: int = Field(description="Size of the disks of all its sandboxes, also paused ones")
    creates: int = Field(description="Sandboxes that are being started")


class PlacementView(BaseModel):
    """Where a sandbox would be placed."""

    host_id: str | None = Field(None, description="The chosen host")
    refusal: str | None = Field(
        None, description="What the sandbox's owner would be told; absent: it has a host"
    )
    removed: dict[FilterName, int] = Field(description="How many hosts each filter removed, in their order")
    hosts: list[PlacementHostView] = Field(
        description="All hosts, the best first, then those that were removed"
    )


def placement_json(wanted: Wanted, verdicts: Sequence[Verdict]) -> dict[str, object]:
    """`PlacementView`."""
    best = ranked(verdicts)
    order = {host.host_id: place for place, host in enumerate(best)}
    removed = [verdict.removed_by for verdict in verdicts]
    ordered = sorted(verdicts, key=lambda verdict: order.get(verdict.host.host_id, len(best)))
    return without_none(
        {
            "host_id": str(best[0].host_id) if best else None,
            "refusal": None if best else refusal(verdicts, wanted).message,
            "removed": {each.name.value: removed.count(each.name) for each in FILTERS},
            "hosts": [_placement_host_json(verdict) for verdict in ordered],
        }
    )


def _placement_host_json(verdict: Verdict) -> dict[str, object]:
    score, load = verdict.score, verdict.load
    return without_none(
        {
            "id": str(verdict.host.host_id),
            "name": verdict.host.name,
            "removed_by": verdict.removed_by,
            "score": None if score is None else round(score.value, 4),
            "is_ready": None if score is None else score.is_ready,
            "sandboxes": load.sandboxes,
            "vcpus": load.vcpus,
            "memory_mb": load.memory_mb,
            "disk_mb": load.disk_mb,
            "creates": load.creates,
        }
    )
