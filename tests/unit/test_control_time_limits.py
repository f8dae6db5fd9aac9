"""When a sandbox's life ends after a request, and which request repeats another: pure."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from wrenn.control.sandboxes.operations.change_time_limits import new_expiry
from wrenn.control.sandboxes.records import Spec, TimeLimits
from wrenn.control.sandboxes.types import SetTimeout

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOON, LATER = NOW + timedelta(seconds=10), NOW + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [
        (None, {}, None),
        (SOON, {}, SOON),
        (SOON, {"timeout_sec": 5}, SOON),
        (None, {"lifetime_sec": 10}, SOON),
        (LATER, {"lifetime_sec": 10}, SOON),
        (SOON, {"lifetime_sec": 0}, None),
        (SOON, {"lifetime_sec": 60, "extend_only": True}, LATER),
        (LATER, {"lifetime_sec": 10, "extend_only": True}, LATER),
        (None, {"lifetime_sec": 10, "extend_only": True}, None),
        (SOON, {"lifetime_sec": 0, "extend_only": True}, None),
    ],
)
def test_a_life_ends_when_it_was_said_and_extending_never_shortens_it(
    before: datetime | None, body: dict[str, object], after: datetime | None
):
    assert new_expiry(before, NOW, SetTimeout.model_validate(body)) == after


def test_a_request_of_the_first_version_keeps_its_digest():
    said = {"template": "minimal", "vcpus": 1, "memory_mb": 512, "timeout_sec": 60, "envs": {"A": "1"}}
    first = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
    assert Spec("minimal", 1, 512, {"A": "1"}, TimeLimits(60)).digest() == first


def test_every_limit_is_part_of_the_digest():
    many = [
        TimeLimits(),
        TimeLimits(timeout_sec=1),
        TimeLimits(lifetime_sec=1),
        TimeLimits(on_expiry="kill"),
        TimeLimits(auto_resume=True),
    ]
    assert len({Spec("minimal", 1, 512, {}, limits).digest() for limits in many}) == len(many)
