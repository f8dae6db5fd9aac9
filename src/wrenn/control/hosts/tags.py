"""Tags of hosts, by which sandboxes are placed."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

TAGS_LIMIT: Final = 32
"""Tags of one host, and tags that one sandbox may ask for."""
TAG: Final = re.compile(r"[a-z0-9._-]{1,64}")


def _tag(value: str) -> str:
    if TAG.fullmatch(value) is None:
        raise ValueError("must be 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    return value


HostTag = Annotated[str, AfterValidator(_tag)]
