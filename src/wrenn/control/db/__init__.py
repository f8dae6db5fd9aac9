"""PostgreSQL: connection pool, transactions that a cancellation cannot interrupt, notifications, migrations, the embedded server."""

from wrenn.control.db.batches import in_batches
from wrenn.control.db.conditions import is_none_of
from wrenn.control.db.engine import Database, Transaction
from wrenn.control.db.leases import RELEASED, HeldLeases, Leases
from wrenn.control.db.loop_leases import LoopLease
from wrenn.control.db.metadata import metadata
from wrenn.control.db.moments import in_s, span_s
from wrenn.control.db.notifications import CHANNEL, Hints, Listener, NotificationHandler
from wrenn.control.db.row_query import RowQuery
from wrenn.control.db.settled import settled_moment

__all__ = [
    "CHANNEL",
    "RELEASED",
    "Database",
    "HeldLeases",
    "Hints",
    "Leases",
    "Listener",
    "LoopLease",
    "NotificationHandler",
    "RowQuery",
    "Transaction",
    "in_batches",
    "in_s",
    "is_none_of",
    "metadata",
    "settled_moment",
    "span_s",
]
