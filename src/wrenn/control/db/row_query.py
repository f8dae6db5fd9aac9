"""A query for one row, compiled once and run directly on the driver, for reads that every request waits for.

SQLAlchemy's way to a row (build the statement, find its compiled form, wrap the result) costs 1.1 ms of processor time
between two sandboxes' turns, three times PostgreSQL's answer. Everywhere else it is the right way.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect

_DIALECT = asyncpg_dialect()


class RowQuery:
    """`statement` gives at most one row; its bind parameters are named, and are the arguments.

    Arguments and constants reach the driver as they are: text, numbers, times, `UUID`.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        self.statement = statement
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = compiled.string
        self._names: list[str] = list(getattr(compiled, "positiontup", None) or ())
        self._constants: Mapping[str, object] = compiled.params
        columns = list(statement.selected_columns)
        self._columns = [str(column.key) for column in columns]
        readers = [column.type.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for column in columns]
        self._readers = [(index, read) for index, read in enumerate(readers) if read is not None]

    async def run(self, connection: Any, arguments: Mapping[str, object]) -> Any:
        """The row with its columns as attributes, or None; `connection` is the driver's."""
        values = {**self._constants, **arguments}
        found = await connection.fetchrow(self._sql, *(values[name] for name in self._names))
        if found is None:
            return None
        row = list(found)
        for index, read in self._readers:
            row[index] = read(row[index])
        return SimpleNamespace(**dict(zip(self._columns, row, strict=True)))
