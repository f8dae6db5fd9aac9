"""Logs are JSON events; secrets do not show."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from wrenn.base.ids import SandboxId
from wrenn.base.logging import JsonFormatter
from wrenn.base.secrets import Secret


def _line(message: str, *, exc_info: Any = None, **fields: object) -> dict[str, Any]:
    record = logging.getLogger("wrenn.test").makeRecord(
        "wrenn.test", logging.INFO, __file__, 1, message, (), exc_info, extra=fields
    )
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_has_the_event_and_its_fields() -> None:
    sandbox_id = SandboxId.new()
    line = _line("sandbox running", sandbox_id=sandbox_id, boot_ms=12)
    assert line["event"] == "sandbox running"
    assert line["level"] == "info"
    assert line["sandbox_id"] == str(sandbox_id)
    assert line["boot_ms"] == 12
    assert line["time"].endswith("+00:00")


def test_a_line_break_in_a_field_makes_no_second_line() -> None:
    assert _line("event", path="a\nb")["path"] == "a\nb"


def test_an_exception_is_a_field() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        line = _line("event", exc_info=sys.exc_info())
    assert "ValueError: why" in line["exception"]


def test_a_secret_does_not_show() -> None:
    secret = Secret("wrn_0123456789")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        json.dumps(_line("event", key=secret), ensure_ascii=False),
    ]
    assert not any("0123456789" in text for text in shown)
    assert secret.reveal() == "wrn_0123456789"


def test_equal_secrets_are_equal_and_have_one_hash() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
