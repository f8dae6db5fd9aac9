"""Opening connections to PostgreSQL: `DATABASE_URL` as libpq reads it, with one server or several of which one accepts writes.

The driver would give one time limit to all servers together, so that a machine that is silent would hide those after it.
Here each server has its own, and the one that was used last is tried first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, TargetServerAttributeNotMatched
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from wrenn.base.errors import InvalidRequest

_driver: Any = asyncpg  # has no types
_SCHEME: Final = re.compile(r"postgres(?:ql)?(?:\+[a-z0-9]+)?://")
_NOT_LIBPQ: Final = frozenset({"prepared_statement_cache_size", "async_fallback"})
"""Query parameters of SQLAlchemy, which took them out of the URL. The driver would send them to the server as settings."""
_DEFAULT_PORT: Final = 5432
_ALONE_S: Final = 5.0
_EACH_S: Final = 3.0
"""A server that accepts connections does so in milliseconds; callers wait while a silent one is tried."""
_ACCEPTS_WRITES: Final = "read-write"

Server = tuple[str, int]
"""Host name, address or folder of a Unix socket, and port."""


def create_engine(
    database_url: str,
    *,
    server_settings: Mapping[str, str] | None = None,
    answer_timeout_s: float | None = None,
    **options: Any,
) -> AsyncEngine:
    """Make an engine for a database; nothing is connected yet.

    Args:
        database_url: PostgreSQL's URL, as libpq reads it.
        server_settings: of each connection.
        answer_timeout_s: a statement fails with TimeoutError if its server is silent for so long.
        **options: those of SQLAlchemy's engine.

    Raises:
        InvalidRequest: no URL of a PostgreSQL database.
    """
    connector = _Connector(database_url, server_settings or {}, answer_timeout_s)
    return create_async_engine("postgresql+asyncpg://", async_creator=connector.connect, **options)


class _Connector:
    def __init__(
        self, database_url: str, server_settings: Mapping[str, str], answer_timeout_s: float | None
    ) -> None:
        self._url = libpq_url(database_url)
        self._servers = servers_of(self._url)
        self._server_settings = dict(server_settings)
        self._answer_timeout_s = answer_timeout_s
        # Without this a standby would be connected to as well, and refuse all that is written.
        says_which = "target_session_attrs" in parse_qs(_split_url(self._url).query)
        self._wanted = None if says_which else _ACCEPTS_WRITES

    async def connect(self) -> Any:
        """Connect to the first server that can be used: of several, the one that was used last is tried first.

        Raises:
            OSError: none can be.
            InvalidRequest: the driver cannot use the URL.
        """
        if not self._servers:
            return await self._connect_to(None, _ALONE_S)
        *others, last = self._servers
        for server in others:
            with suppress(OSError, _driver.PostgresError):
                return await self._connect_to(server, _EACH_S)
        return await self._connect_to(last, _EACH_S if others else _ALONE_S)

    async def _connect_to(self, server: Server | None, limit_s: float) -> Any:
        place = {} if server is None else {"host": server[0], "port": server[1]}
        try:
            connection = await _driver.connect(
                self._url,
                **place,
                timeout=limit_s,
                command_timeout=self._answer_timeout_s,
                server_settings=self._server_settings,
                target_session_attrs=self._wanted,
            )
        except TargetServerAttributeNotMatched as error:
            raise ConnectionError(f"a server is not {self._wanted or 'as asked for'}") from error
        except ClientConfigurationError as error:
            raise InvalidRequest(f"DATABASE_URL cannot be used: {error}") from error
        if server is not None:
            self._servers = [server, *(other for other in self._servers if other != server)]
        return connection


def libpq_url(database_url: str) -> str:
    """Return a URL as libpq and the driver read it, of one that SQLAlchemy may read in another way.

    In user name and password, characters need not be escaped; `ssl` stands for `sslmode`.

    Raises:
        InvalidRequest: no URL of a PostgreSQL database. The message holds no part of it, which could be one of the password.
    """
    scheme = _SCHEME.match(database_url)
    if scheme is None:
        raise InvalidRequest("DATABASE_URL must begin with postgresql://.")
    user, at, place = _split_user(database_url[scheme.end() :])
    # libpq knows no fragments.
    parts = _split_url(f"postgresql://{quote(user, safe='%:')}{at}{place.replace('#', '%23')}")
    try:
        found = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        raise InvalidRequest("DATABASE_URL: what follows `?` must be NAME=VALUE, separated by `&`.") from None
    query = {name: value for name, value in found if name not in _NOT_LIBPQ}
    if (ssl := query.pop("ssl", None)) is not None:
        query.setdefault("sslmode", ssl)
    return f"postgresql://{parts.netloc}{parts.path}" + (f"?{urlencode(query)}" if query else "")


def _split_user(rest: str) -> tuple[str, str, str]:
    """User name and password, `@` if there are any, and all that follows."""
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if "@" in authority:
        user, at, _ = authority.rpartition("@")
        return user, at, rest[len(user) + 1 :]
    # `USER:a/b@HOST` has a password that is not escaped; `HOST:1/b?user=c@d` has none.
    if ":" in authority and not authority.startswith("["):
        user, at, place = rest.partition("@")
        is_in_query = "?" in user and all(
            not port or port.isdecimal() for _, port in map(_split, authority.split(","))
        )
        if at and not is_in_query:
            return user, at, place
    return "", "", rest


def _split_url(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its text has parts of the URL
        raise InvalidRequest("DATABASE_URL cannot be read: is each `[` of an address closed?") from None


def servers_of(database_url: str) -> list[Server]:
    """Return the servers that a URL names, as libpq reads it; empty: it names none, and the driver's default is used.

    `HOST:PORT,HOST:PORT` stand in the place of the host, or in `host` and `port` of the query.

    Raises:
        InvalidRequest: a port is no number, or there is another number of ports than of hosts.
    """
    parts = _split_url(database_url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    named = unquote(parts.netloc.rpartition("@")[2]) or query.get("host", "")
    if not named:
        return []
    hosts = [_split(each) for each in named.split(",")]
    ports = query["port"].split(",") if query.get("port") else []
    if len(ports) > 1 and len(ports) != len(hosts):
        raise InvalidRequest("DATABASE_URL names another number of ports than of hosts.")
    every = ports[0] if len(ports) == 1 else ""
    own = ports if len(ports) > 1 else []
    return [
        (host, _port(port or other or every)) for (host, port), other in zip_longest(hosts, own, fillvalue="")
    ]


def _split(server: str) -> tuple[str, str]:
    if server.startswith("/"):
        return server, ""
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = server.partition(":")
    return host, port


def _port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InvalidRequest("DATABASE_URL: a port must be a number up to 65535.")
    return int(text)
