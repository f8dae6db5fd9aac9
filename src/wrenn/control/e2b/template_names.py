"""Names of templates as e2b's clients write them."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import NotFound
from wrenn.control.templates import LATEST

DEFAULT_TAG: Final = "default"
"""What e2b calls the tag that a name without one means."""


def own_reference(text: str) -> str:
    """Convert `name`, `name:tag` or an id to a reference of the platform's own API.

    Raises:
        NotFound: it has a namespace. Teams of this platform have none.
    """
    if "/" in text:
        raise NotFound(f"There is no template {text[:200]!r}: names of templates have no namespace here.")
    name, colon, tag = text.partition(":")
    return f"{name}:{LATEST}" if colon and tag == DEFAULT_TAG else text
