"""Error texts for unknown names, with the most similar known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_SHOWN: Final = 60
"""So much of a strange name is compared and shown."""
_LISTED: Final = 12


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence, without its full stop, that there is no `kind` of this name, and which name may be meant."""
    names = sorted(known)
    # Characters that the error's own JSON or a terminal would not show are escaped.
    shown = ascii(name[:_SHOWN])
    if near := difflib.get_close_matches(name[:_SHOWN].lower(), names, n=1, cutoff=0.6):
        return f"There is no {kind} {shown}; the nearest is '{near[0]}'"
    if not names:
        return f"There is no {kind} {shown}; none is known here"
    more = " and others" if len(names) > _LISTED else ""
    return f"There is no {kind} {shown}; known are {', '.join(names[:_LISTED])}{more}"
