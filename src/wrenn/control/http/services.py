"""How endpoints get the services of the application: by their type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S")


class _Find:
    """The dependency on a service of one type."""

    def __init__(self, kind: type[object]) -> None:
        self.kind = kind

    async def __call__(self, connection: HTTPConnection) -> object:
        return service_of(connection, self.kind)


def service(kind: type[object]) -> Any:
    """Return the dependency on the application's service of this type, to be used in `Annotated`."""
    return Depends(_Find(kind))


def service_of(connection: HTTPConnection, kind: type[S]) -> S:
    """Return the application's service of this type."""
    services: Mapping[type, object] = connection.app.state.services
    return cast("S", services[kind])


def install(app: FastAPI, services: DataclassInstance) -> None:
    """Give the application its services: the values of the fields, each of another type."""
    by_type: dict[type, object] = {}
    for value in (getattr(services, field.name) for field in fields(services)):
        assert type(value) not in by_type, f"two services of type {type(value).__name__}"
        by_type[type(value)] = value
    app.state.services = by_type
