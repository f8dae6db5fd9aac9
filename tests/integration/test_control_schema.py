"""The served API held against its own description: whatever is sent, no answer is a 5xx or outside of the description.

`WRENN_SCHEMA_EXAMPLES` sets how many requests of each operation are made up; `make schema-test` takes 100.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
import schemathesis.checks
import schemathesis.specs.openapi.checks
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from wrenn.base.clock import SystemClock
from wrenn.base.ids import TeamId, UserId
from wrenn.control.auth import Claims, Tokens, ensure_secret
from wrenn.control.identity import Role

from .conftest import client
from .host_agents import create_host
from .people import People, make_admin

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES: Final = int(os.environ.get("WRENN_SCHEMA_EXAMPLES", "3"))
_general: Any = schemathesis.checks  # has no types
_openapi: Any = schemathesis.specs.openapi.checks


def no_fault_of_the_server(context: Any, response: Any, case: Any) -> Any:
    """As `not_a_server_error`, but 501 says what the platform does not have: whether it is described, another check says."""
    return None if response.status_code == 501 else _general.not_a_server_error(context, response, case)


CHECKS: Final = [
    no_fault_of_the_server,
    _openapi.status_code_conformance,
    _openapi.content_type_conformance,
    _openapi.response_headers_conformance,
    _openapi.response_schema_conformance,
]
LAST: Final = ("DELETE /v1/teams", "DELETE /v1/me", "POST /v1/teams/{team_id}/leave", "POST /v1/auth/logout")
"""What may take away the caller or its things, were it guessed."""

TIMEOUT_S: Final = 60.0
STREAM_TIMEOUT_S: Final = 2.0
"""A stream of events has no end: what has come by then is looked at."""


def as_bytes(_context: Any, value: Any) -> bytes:
    """Made-up archives are bytes already, or something that is no archive."""
    raw = getattr(value, "data", value)
    return raw if isinstance(raw, bytes) else str(raw).encode("utf-8", "replace")


_serializer: Any = schemathesis.serializer("application/x-tar")
_serializer(as_bytes)


def in_order(operation: Any) -> tuple[int, int, str]:
    """Removals after all else, and the caller's own end at the very end."""
    label = str(operation.label)
    return int(label.startswith(LAST)), int(label.startswith("DELETE")), label


@pytest.mark.timeout(3600)
async def test_no_answer_is_outside_of_the_description(people: People, data_dir: Path):
    root, other = await people.sign_up(), await people.sign_up()
    await make_admin(people.database_url, root)
    sandbox = (await root.post("/v1/sandboxes")).json()["id"]
    real = {
        "sandbox_id": sandbox,
        "team_id": root.team_id,
        "user_id": other.user_id,
        "key_id": (await root.make_key())["id"],
        "host_id": (await create_host(root))[0]["id"],
        "tag": "gpu",
        "selector": "1",
        "name": "minimal",
    }
    async with client(people.url, None) as api:
        descriptions = [(await api.get(path)).json() for path in ("/openapi.json", "/e2b/openapi.json")]
    tokens = Tokens(ensure_secret(data_dir), SystemClock())
    claims = Claims(
        UserId.parse(root.user_id),
        TeamId.parse(root.team_id),
        tokens.read(root.token).session_id,
        Role.OWNER,
        root.email,
        "Root",
        is_admin=True,
    )

    def headers() -> dict[str, str]:
        """A token that has not expired, however long it takes."""
        return {"Authorization": f"Bearer {tokens.issue(claims)}"}

    failures = await asyncio.to_thread(attack, descriptions, people.url, headers, real)
    assert failures == {}


def attack(
    descriptions: list[dict[str, Any]],
    url: str,
    headers: Callable[[], dict[str, str]],
    real: Mapping[str, str],
) -> dict[str, str]:
    """What is wrong, by operation."""
    schemas: list[Any] = [schemathesis.openapi.from_dict(description) for description in descriptions]
    found = [each.ok() for schema in schemas for each in schema.get_all_operations()]
    operations = sorted(found, key=in_order)
    assert operations
    failures: dict[str, str] = {}
    for operation in operations:
        try:
            attack_one(operation, url, headers, real)
        except Exception as error:  # noqa: BLE001 - all operations are tried before the test fails
            failures[str(operation.label)] = str(error)[:1500]
    return failures


def attack_one(
    operation: Any, url: str, headers: Callable[[], dict[str, str]], real: Mapping[str, str]
) -> None:
    """Raises what is wrong with the operation."""
    timeout_s = STREAM_TIMEOUT_S if "text/event-stream" in str(operation.definition.raw) else TIMEOUT_S

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
    )
    @given(case=operation.as_strategy(), existing=st.booleans())
    def attempt(case: Any, existing: bool) -> None:
        if existing and case.path_parameters:
            case.path_parameters = {
                name: real.get(name, value) for name, value in case.path_parameters.items()
            }
        case.call_and_validate(base_url=url, headers=headers(), checks=CHECKS, timeout=timeout_s)

    attempt()
