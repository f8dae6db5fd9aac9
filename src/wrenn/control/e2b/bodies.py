"""The base of request bodies, and how they become requests of the platform's own services."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from wrenn.base.errors import InvalidRequest
from wrenn.control.http import fault_text

_log = logging.getLogger(__name__)

_NAMES_LIMIT: Final = 200
"""Unknown fields that are logged: clients choose their names."""
_NAME_LENGTH: Final = 64
_logged: set[str] = set()

B = TypeVar("B", bound=BaseModel)


class E2bBody(BaseModel):
    """Base of request bodies: names in camel case, null counts as absent, unknown fields are ignored.

    Newer clients send fields that are not known here. Each name is logged once in a process.
    """

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, validate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()} | cls.model_fields.keys()
        for name in value:  # pyright: ignore[reportUnknownVariableType]
            if name not in known:
                _log_once(cls.__name__, str(name))  # pyright: ignore[reportUnknownArgumentType]
        return {k: v for k, v in value.items() if v is not None}  # pyright: ignore[reportUnknownVariableType]


def _log_once(body: str, name: str) -> None:
    entry = f"{body}.{name[:_NAME_LENGTH]}"
    if entry not in _logged and len(_logged) < _NAMES_LIMIT:
        _logged.add(entry)
        _log.info("unknown field ignored", extra={"field": entry})


def own_request(kind: type[B], **fields: object) -> B:
    """Build the request of one of the platform's services.

    Raises:
        InvalidRequest: a field breaks a rule of that request; the message names it as the platform's own API does.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InvalidRequest(fault_text({**fault, "loc": ("body", *fault["loc"])})) from error
