"""SQL expressions for times by the database's clock, so that replicas with different clocks agree."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func


def span_s(seconds: ColumnElement[Any] | float) -> ColumnElement[Any]:
    """So many seconds, as an interval."""
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def in_s(seconds: ColumnElement[Any] | float) -> ColumnElement[Any]:
    """The time so many seconds from now."""
    return func.now() + span_s(seconds)
