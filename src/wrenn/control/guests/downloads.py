"""Links with which a browser downloads one file of a sandbox, once.

Files are read by POST with a credential in a header, and a browser can only hold such an answer in memory. A link is opened by
navigation, so the browser writes the file to its disk as it comes.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wrenn.base.errors import InvalidRequest, NotFound, RateLimited
from wrenn.base.ids import random_hex
from wrenn.base.secrets import Secret
from wrenn.control.auth import Credential
from wrenn.control.db import Database
from wrenn.control.guests import download_store
from wrenn.control.guests.download_store import LinkedFile
from wrenn.control.guests.files import Files
from wrenn.control.guests.types import MakeDownloadLink, PathOf
from wrenn.control.hosts import Download
from wrenn.control.sandboxes import Lookup

LIFE_S: Final = 60
"""A page makes a link when its button is pressed, and opens it at once."""
_OF_TEAM: Final = 1000
"""Links of one team that nobody used yet."""
_TOKEN: Final = re.compile(r"wrd_[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DownloadLink:
    """A link that works once."""

    token: Secret
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedLink:
    """What a link opens.

    Attributes:
        name: what the file is called on the disk of whoever downloads it.
    """

    file: LinkedFile
    name: str


class Downloads:
    """Makes links for downloads, and opens them."""

    def __init__(self, *, database: Database, lookup: Lookup, files: Files) -> None:
        self._database = database
        self._lookup = lookup
        self._files = files

    async def create(self, credential: Credential, text_id: str, body: MakeDownloadLink) -> DownloadLink:
        """Make a link to a file, or with `archive` to a directory as a tar archive. It works once, and only while the caller has access.

        Raises:
            NotFound: there is no such file. InvalidRequest: it is a directory, or none. RateLimited: the team has too many.
        """
        where = PathOf(path=body.path, user=body.user)
        found = await self._files.stat(credential, text_id, where)
        if body.archive and found.type != "directory":
            raise InvalidRequest(f"archive: {body.path} is no directory.")
        if not body.archive and found.type == "directory":
            raise InvalidRequest(f"path: {body.path} is a directory; ask for an archive of it.")
        located = await self._lookup.locate(credential, text_id)
        token = Secret(f"wrd_{random_hex(32)}")
        expires_at = await download_store.insert_link(
            self._database,
            located.caller.team_id,
            token.sha256_hex(),
            LinkedFile(credential, located.sandbox.sandbox_id, body.path, body.user, body.archive),
            life_s=LIFE_S,
            most=_OF_TEAM,
        )
        if expires_at is None:
            raise RateLimited(f"The team has {_OF_TEAM} links for downloads that nobody used: wait a minute.")
        return DownloadLink(token, expires_at)

    async def use(self, token: str) -> OpenedLink:
        """Use up a link.

        Raises:
            NotFound: it is not valid: unknown, used, or expired.
        """
        linked = None
        if _TOKEN.fullmatch(token):
            linked = await download_store.use_link(self._database, Secret(token).sha256_hex())
        if linked is None:
            raise NotFound("This link does not work: it was used before, or has expired.")
        name = linked.path.rstrip("/").rpartition("/")[2] or "root"
        return OpenedLink(linked, f"{name}.tar" if linked.is_archive else name)

    @asynccontextmanager
    async def open(self, opened: OpenedLink) -> AsyncGenerator[Download]:
        """Open the file of a used link.

        Raises:
            Unauthorized, Forbidden, NotFound: who made the link has lost access meanwhile. Else as `Files.open`.
        """
        file = opened.file
        where = PathOf(path=file.path, user=file.guest_user)
        text_id = str(file.sandbox_id)
        opening = (
            self._files.open_tree(file.credential, text_id, where)
            if file.is_archive
            else self._files.open(file.credential, text_id, where, {})
        )
        async with opening as download:
            yield download
