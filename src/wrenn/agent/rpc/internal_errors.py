"""The boundary of the host API: an error of ours that nobody foresaw is logged here, and reported without details."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from wrenn.base.errors import InternalError, WrennError

_log = logging.getLogger(__name__)

_MESSAGE: Final = "The host could not carry out the call; its log has the reason."


@contextmanager
def hiding_internal_errors(event: str, *passed: type[Exception], **fields: object) -> Generator[None]:
    """Log an error that is neither for the caller nor in `passed` as `event`, and raise a general InternalError instead."""
    try:
        yield
    except passed:
        raise
    except Exception as error:
        context = {}
        if isinstance(error, WrennError):
            if error.code != InternalError.code:
                raise
            context = error.context
        _log.exception(event, extra={**fields, **context})
        raise InternalError(_MESSAGE) from error
