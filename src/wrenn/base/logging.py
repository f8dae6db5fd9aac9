"""Structured logs: `log.info("sandbox running", extra={"sandbox_id": …})` writes one JSON object on a line.

Field names are the same everywhere: `sandbox_id`, `team_id`, `host_id`, `request_id`, `duration_ms`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from wrenn.base.request_ids import RequestIdFilter

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, event and the fields given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(*, level: str = "INFO") -> None:
    """Send all logs of this process to standard error as JSON lines. A program's `main` calls this once."""
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(JsonFormatter())
    stderr.addFilter(RequestIdFilter())
    root = logging.getLogger()
    root.handlers[:] = [stderr]
    root.setLevel(level)
    logging.getLogger("uvicorn.access").setLevel("WARNING")
    # At "info" uvicorn logs each WebSocket with its query, which may contain a signed link.
    logging.getLogger("uvicorn.error").setLevel("WARNING")
