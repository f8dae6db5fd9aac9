"""Names of templates as e2b's clients write them."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.control.templates import BAD_NAME, LATEST
from wrenn.protocol.api import TEMPLATE_NAME_PATTERN

DEFAULT_TAG: Final = "default"
"""What e2b calls the tag that a name without one means."""


BASE_TEMPLATE: Final = "base"
"""The template that clients mean if they name none. Where no host has built it, `minimal` stands in for it."""


def own_tag(tag: str) -> str:
    """Convert a tag as clients write it to one of the platform's own. Raises InvalidRequest: it cannot be one."""
    if TEMPLATE_NAME_PATTERN.fullmatch(tag) is None:
        raise InvalidRequest(f"tag: {BAD_NAME}")
    return LATEST if tag == DEFAULT_TAG else tag


def client_tag(tag: str) -> str:
    """Convert a tag of the platform's own to what clients call it."""
    return DEFAULT_TAG if tag == LATEST else tag


def own_reference(text: str) -> str:
    """Convert `name`, `name:tag` or an id to a reference of the platform's own API.

    Raises:
        NotFound: it has a namespace. Teams of this platform have none.
    """
    if "/" in text:
        raise NotFound(f"There is no template {text[:200]!r}: names of templates have no namespace here.")
    name, colon, tag = text.partition(":")
    return f"{name}:{LATEST}" if colon and tag == DEFAULT_TAG else text
