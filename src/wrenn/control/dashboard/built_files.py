"""The built files of the dashboard as they are served: for the path of this installation, with their headers.

The build knows neither the host name nor the path under which users reach the platform. It is made for the path `BASE_SENTINEL`,
which is replaced here by the path of `WRENN_PUBLIC_URL`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, urlsplit

BUILT: Final = Path(__file__).parent / "built"
"""Where the build puts its files."""
BASE_SENTINEL: Final = "/__wrenn_base__"
"""The path for which the dashboard is built."""

_PAGE: Final = "index.html"
_IMMUTABLE: Final = "_app/immutable/"
"""Below it every name has the digest of the content."""
_COMPRESSED: Final = (".gz", ".br", ".zst")
"""Compressed copies that the build may have made. They have the sentinel in them, so they are never served."""
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""Not left to the machine's table, which differs between distributions."""
_TEXT: Final = frozenset({".html", ".js", ".css", ".json", ".webmanifest", ".map", ".svg", ".txt"})
_LEAST_COMPRESSED_B: Final = 860
"""Below it a compressed answer needs as many packets."""


def is_built(folder: Path = BUILT) -> bool:
    """Whether the dashboard was built."""
    return (folder / _PAGE).is_file()


@dataclass(frozen=True)
class BuiltFile:
    """One file as it is served."""

    content: bytes
    media_type: str
    cache_control: str
    is_text: bool

    @cached_property
    def etag(self) -> str:
        """The weak validator: the content may be compressed or not."""
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    @cached_property
    def compressed(self) -> bytes | None:
        """The content in gzip; None where that is no gain. Made at the first use."""
        if not self.is_text or len(self.content) < _LEAST_COMPRESSED_B:
            return None
        made = gzip.compress(self.content, mtime=0)
        return made if len(made) < len(self.content) else None


@dataclass(frozen=True)
class BuiltDashboard:
    """All files of the dashboard, by their path below the base without a leading slash.

    Attributes:
        page: the page that every path of the dashboard shows; None: the dashboard was not built.
        content_security_policy: of all answers; it admits the inline scripts of `page` and no others.
    """

    files: Mapping[str, BuiltFile] = field(default_factory=dict[str, BuiltFile])
    page: BuiltFile | None = None
    content_security_policy: str = ""

    @classmethod
    def load(cls, folder: Path, public_url: str | None) -> Self:
        """Read the files below `folder`, for users who reach the platform at `public_url`."""
        path = quote(urlsplit(public_url or "").path.rstrip("/"), safe="/%")
        files = {
            name: _read(file, name, path)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.suffix not in _COMPRESSED
            for name in (file.relative_to(folder).as_posix(),)
        }
        page = files.get(_PAGE)
        return cls(files, page, _policy(page))


def _read(file: Path, name: str, path: str) -> BuiltFile:
    content = file.read_bytes()
    is_text = file.suffix in _TEXT
    if is_text:
        content = content.replace(BASE_SENTINEL.encode(), path.encode())
    return BuiltFile(
        content,
        _MEDIA_TYPES.get(file.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream",
        "public, max-age=31536000, immutable" if name.startswith(_IMMUTABLE) else "no-cache",
        is_text,
    )


def _policy(page: BuiltFile | None) -> str:
    scripts = _InlineScripts()
    if page is not None:
        scripts.feed(page.content.decode())
        scripts.close()
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts.found)
    allowed = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html"
    )


class _InlineScripts(HTMLParser):
    """Collects the texts of the scripts that are in the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script" and not any(name == "src" for name, _ in attrs):
            self._is_inside = True
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._is_inside = False
