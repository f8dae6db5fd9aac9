"""The connection pool, and the ways to use it: one statement, a transaction, one row that a request waits for.

A caller's cancellation never reaches a connection: the work runs in a task of its own and is waited for behind a shield,
so that a commit, a rollback or the return of a connection cannot be cut in two (SQLAlchemy #12099). The server's own time
limits bound that work, and one of ours in case the server falls silent. What PostgreSQL's absence looks like in the driver is
translated here to `DatabaseUnavailable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, cast

from asyncpg import InterfaceError as DriverMisused
from asyncpg import InternalClientError, PostgresError
from sqlalchemy import CursorResult, Executable, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from wrenn.base.errors import DatabaseUnavailable
from wrenn.base.on_failure import on_failure_await
from wrenn.control.db.connect import create_engine
from wrenn.control.db.row_query import RowQuery

T = TypeVar("T")
Transaction = AsyncConnection
"""What a store needs to take part in a transaction that a service opened."""

_POOL_LIMIT: Final = 30
_POOL_IDLE: Final = 10
"""So many connections stay open when nobody uses them."""
_POOL_TIMEOUT_S: Final = 5.0
_ANSWER_TIMEOUT_S: Final = 12.0
"""Longer than the server's own limits: it has an effect when the server, or the machine below it, stopped without a word."""
_CLOSE_TIMEOUT_S: Final = 10.0
_SERVER_SETTINGS: Final = {
    "application_name": "wrenn-control",
    "timezone": "UTC",
    # No statement of ours takes a second; these end what a lost server or a forgotten lock would hold for ever.
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    # Compiling a plan costs more than any of our queries.
    "jit": "off",
}
_READ_ONLY: Final = "25006"
"""The server has become a standby."""
# SQLSTATE classes: 08 connection, 57P server shutting down or starting, 53 too many connections or no memory.
_GONE_STATES: Final = ("08", "57P", "53", _READ_ONLY)
# Waited too long for a lock, ran too long, or was chosen to end a deadlock.
_BUSY_STATES: Final = ("55P03", "57014", "40P01")


class _ServerSilent(ConnectionError):
    """A statement got no answer in time. Nothing is known about what became of it."""


class Database:
    """A pool of at most `limit` connections to PostgreSQL.

    Whoever needs a connection when all are in use waits for five seconds, and gets `DatabaseUnavailable`.
    """

    def __init__(
        self, database_url: str, *, answer_timeout_s: float = _ANSWER_TIMEOUT_S, limit: int = _POOL_LIMIT
    ) -> None:
        idle = min(limit, _POOL_IDLE)
        self._engine: AsyncEngine = create_engine(
            database_url,
            server_settings=_SERVER_SETTINGS,
            answer_timeout_s=answer_timeout_s,
            pool_size=idle,
            max_overflow=limit - idle,
            pool_timeout=_POOL_TIMEOUT_S,
            pool_use_lifo=True,
            # Errors go to the log; what they are about may be a secret.
            hide_parameters=True,
        )
        event.listen(self._engine.sync_engine, "handle_error", give_up_connections)
        # One round trip a statement, where a transaction would take three.
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._running: set[asyncio.Task[Any]] = set()

    async def execute(
        self,
        statement: Executable,
        arguments: Mapping[str, object] | None = None,
        *,
        repeatable: bool = False,
    ) -> CursorResult[Any]:
        """Run one statement, committed by itself; its rows are held in the result.

        `repeatable` (reads): run it once more on a new connection when the pooled one turns out to be dead. A
        cancellation leaves the statement to run to its end.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
        """

        async def run() -> CursorResult[Any]:
            async with self._single.connect() as connection:
                return await connection.execute(statement, arguments)

        return await self._apart(_translated(run, attempts=2 if repeatable else 1))

    async def find(self, query: RowQuery, **arguments: object) -> Any:
        """The row of `query`, its columns as attributes; None when there is none. A cancellation as in `execute`.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
        """
        return await self._apart(self._find(query, arguments))

    async def _find(self, query: RowQuery, arguments: Mapping[str, object]) -> Any:
        try:
            async with self._engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                if driver is not None:
                    # The pool does not see what became of it.
                    async with on_failure_await(connection.invalidate):
                        return await query.run(driver, arguments)
        except (DBAPIError, PoolTimeout, PostgresError, DriverMisused, InternalClientError, OSError):
            pass  # the long way knows what is wrong, and whether another connection helps
        return (await self.execute(query.statement, arguments, repeatable=True)).one_or_none()

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction: committed when it returns, rolled back when it raises.

        `work` must have no effect but on the transaction: it is run again when its first connection was dead. A
        cancellation leaves it to run to its end, whole.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer; when it fell silent during the commit, the outcome is open.
        """
        committing = False

        async def run() -> T:
            nonlocal committing
            async with self._engine.connect() as connection:
                result = await work(connection)
                committing = True
                await connection.commit()
                return result

        return await self._apart(_translated(run, attempts=2, may_repeat=lambda: not committing))

    @staticmethod
    async def find_all(tx: Transaction, query: RowQuery, **arguments: object) -> Sequence[Any]:
        """The rows of `query`, their columns as attributes, in a transaction. A failure costs the transaction its connection."""
        driver = (await tx.get_raw_connection()).driver_connection
        if driver is None or not driver.is_in_transaction():
            # The first statement begins the transaction, and is repeated when the pooled connection was dead.
            return (await tx.execute(query.statement, arguments)).all()
        # The pool does not see what became of it.
        async with on_failure_await(tx.invalidate):
            return await query.run_all(driver, arguments)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncConnection]:
        """A connection of the pool for as long as the caller wants it: for LISTEN. Each statement commits by itself."""
        async with self._single.connect() as connection:
            yield connection

    def connections(self) -> tuple[int, int]:
        """How many pooled connections are in use, and how many are idle."""
        pool = cast("QueuePool", self._engine.pool)
        return pool.checkedout(), pool.checkedin()

    async def close(self) -> None:
        """Wait for what runs, then close the connections."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=_CLOSE_TIMEOUT_S)
        await self._engine.dispose()

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever still waits gets it


async def _translated(
    run: Callable[[], Awaitable[T]], *, attempts: int, may_repeat: Callable[[], bool] = lambda: True
) -> T:
    while True:
        attempts -= 1
        try:
            return await run()
        except (
            DBAPIError, PostgresError, DriverMisused, PoolTimeout, InternalClientError, OSError, TimeoutError
        ) as error:  # fmt: skip
            if _state_of(error).startswith(_BUSY_STATES):
                raise DatabaseUnavailable(
                    "The database is too busy now. Try again.", context={"cause": repr(error)}
                ) from error
            if not is_gone(error):
                raise
            # Only a connection that was open once can be stale; one that cannot be opened will not open now.
            # asyncpg's internal error is a connection that died in the middle of its former statement.
            stale = isinstance(error, InternalClientError | _ServerSilent) or (
                isinstance(error, DBAPIError) and error.connection_invalidated
            )
            if attempts == 0 or not stale or not may_repeat():
                raise DatabaseUnavailable(
                    "The database does not answer; sandboxes that run are not disturbed. Try again.",
                    context={"cause": repr(error)},
                ) from error


def give_up_connections(context: ExceptionContext) -> None:
    """Let the pool drop all connections that it has, where only new ones can be of use."""
    original = context.original_exception
    if isinstance(original, TimeoutError):
        context.is_disconnect = context.invalidate_pool_on_disconnect = True
        raise _ServerSilent("the database server did not answer in time")
    if getattr(original, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _state_of(error: BaseException) -> str:
    """The SQLSTATE that the server gave; empty: it gave none."""
    state = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)
    return state if isinstance(state, str) else ""


def is_gone(error: BaseException) -> bool:
    """True when the server or the way to it is at fault, not the statement."""
    if state := _state_of(error):
        return state.startswith(_GONE_STATES)
    if not isinstance(error, DBAPIError):
        return True
    return error.connection_invalidated or isinstance(error, InterfaceError | OperationalError)
