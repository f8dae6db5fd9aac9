"""Refuses query parameters that an endpoint does not know, like unknown fields of a body."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from wrenn.base.errors import InvalidRequest
from wrenn.control.http.nearest import unknown_name

_OAUTH: Final = "/auth/oauth"
"""Sign-in providers add parameters of their own to the way back."""


async def refuse_unknown_query(connection: HTTPConnection) -> None:
    """Refuse query parameters that the endpoint does not know, and NUL characters. Raises InvalidRequest."""
    route = connection.scope.get("route")
    # WebSockets check their own: a refusal is a message there.
    if not isinstance(route, APIRoute) or not connection.scope.get("query_string"):
        return
    for name, value in connection.query_params.multi_items():
        # PostgreSQL takes none in its texts.
        if "\0" in value:
            raise InvalidRequest(f"{name[:40]}: must not hold a NUL character.")
    if _OAUTH in route.path:
        return
    known = frozenset(_read_by(route.dependant))
    for name in connection.query_params:
        if name not in known:
            raise InvalidRequest(f"{unknown_name('query parameter', name, known)}.")


def _read_by(dependant: Dependant) -> Iterator[str]:
    """Names of the parameters that an endpoint and its dependencies read."""
    for field in dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from model.model_fields
        else:
            yield field.alias
    for part in dependant.dependencies:
        yield from _read_by(part)
