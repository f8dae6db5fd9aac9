"""SQL conditions that SQLAlchemy has no short way to say."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Uuid, all_, literal
from sqlalchemy.dialects.postgresql import ARRAY

from wrenn.base.ids import Id


def is_none_of(column: ColumnElement[object], ids: Collection[Id]) -> ColumnElement[bool]:
    """SQL condition: the column, which is not NULL, is none of these ids. They are one parameter, however many they are."""
    return column != all_(literal([each.value for each in ids], ARRAY(Uuid)))
