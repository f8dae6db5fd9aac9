"""Names of registries, as in references to container images."""

from __future__ import annotations

import re
from typing import Final

DOCKER_HUB: Final = "docker.io"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[1-9][0-9]{0,4})?")
_PORT_LIMIT: Final = 65_535


def checked_registry(text: str) -> str:
    """Return the name of a registry. Raises ValueError."""
    host, _, port = text.partition(":")
    if (
        _NAME.fullmatch(text) is None
        or ".." in host
        or int(port or 0) > _PORT_LIMIT
        or not _is_registry(text)
    ):
        raise ValueError("must be HOST or HOST:PORT of a registry, without https:// and path")
    return text


def registry_of(reference: str) -> str:
    """Return the registry of an image's reference, which is Docker Hub if it names none."""
    first, slash, _ = reference.partition("/")
    return first if slash and _is_registry(first) else DOCKER_HUB


def _is_registry(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"
