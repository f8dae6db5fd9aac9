"""Validation of request bodies: the base class and checks of texts. Formats of values in responses."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from wrenn.control.http.nearest import unknown_name


class RequestBody(BaseModel):
    """Base of request bodies: unknown fields are refused, and null counts as absent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            known = cls.model_fields.keys()
            for name in value:  # pyright: ignore[reportUnknownVariableType]
                if name not in known:
                    raise ValueError(unknown_name("field", str(name), known))  # pyright: ignore[reportUnknownArgumentType]
            return {k: v for k, v in value.items() if v is not None}  # pyright: ignore[reportUnknownVariableType]
        return value


def plain_text(value: str) -> str:
    """Check that a text is one line of valid UTF-8 without control characters.

    Raises:
        ValueError: it is not; the text says why.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must not hold control characters")
    return value


def nul_free_text(value: str) -> str:
    """Check that a text is valid UTF-8 without a NUL character.

    Raises:
        ValueError: it is not; the text says why.
    """
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    if b"\0" in raw:
        raise ValueError("must not hold a NUL character")
    return value


def without_none(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that have a value: the API leaves the others out."""
    return {name: value for name, value in fields.items() if value is not None}


def wire_time(moment: datetime | None) -> str | None:
    """Format a time as RFC 3339 in UTC, to the second."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
