"""The filter of a list by metadata, which e2b's clients encode three times."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote

from wrenn.base.errors import InvalidRequest

_PAIRS_LIMIT: Final = 64


def parse_metadata_filter(text: str) -> dict[str, str]:
    """Parse the filter as it is after the decoding of the query; return the entries, which must all hold.

    Keys and values are percent-encoded each, then together encoded as a form.

    Raises:
        InvalidRequest: it is no form, or has too many pairs.
    """
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=_PAIRS_LIMIT
        )
        return {unquote(key, errors="strict"): unquote(value, errors="strict") for key, value in pairs}
    except ValueError as error:
        raise InvalidRequest(
            f"metadata: must be pairs key=value joined by '&', at most {_PAIRS_LIMIT}."
        ) from error
