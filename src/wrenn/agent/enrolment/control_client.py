"""Calls of the control plane's API for hosts."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import aiohttp

from wrenn.base.errors import (
    AgentFailure,
    DeadlineExceeded,
    Forbidden,
    InternalError,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unauthorized,
    Unavailable,
    WrennError,
    error_class,
)
from wrenn.base.units import KIB, MIB
from wrenn.protocol.api import (
    HOST_CREDENTIAL_HEADER,
    HOST_OPENS_SEALED_HEADER,
    HOST_RENEWAL_HEADER,
    HOSTS_PREFIX,
)
from wrenn.relay import CONNECT_TIMEOUT_S, read_bounded

_TIMEOUT_S: Final = 10.0
_REGISTER_TIMEOUT_S: Final = 60.0
"""Longest for a registration: if its answer is not waited for, the token is used up."""
_URLS_TIMEOUT_S: Final = 60.0
"""Longest for the control plane to look for a batch of chunks."""
_MANIFEST_TIMEOUT_S: Final = 120.0
_CHECKED_RATE_B: Final = 64 * KIB
"""A large manifest takes as much more time."""
"""Longest for the control plane to look for all chunks of an image."""
_ANSWER_LIMIT_B: Final = 256 * KIB
_URLS_LIMIT_B: Final = 2 * MIB
"""Size of an answer with signed URLs: a URL that contains temporary credentials has more than 2 KiB."""
HOST_DELETED: Final = "host_deleted"


class HostDeleted(NotFound):
    """The host was deleted: it must give up its sandboxes and its credentials."""

    code = HOST_DELETED


class ControlClient:
    """Calls the control plane at one base URL. Use it as a context. `ca_file`: what its certificate is checked with, if not the system's CAs.

    Every call raises `Unavailable` or `DeadlineExceeded` if the control plane does not answer, and a `WrennError`
    with what it said otherwise.

    Attributes:
        base_url: of the API, without a slash at its end.
        tls: how its certificate is checked.
    """

    def __init__(self, base_url: str, ca_file: Path | None) -> None:
        self.base_url = base_url.rstrip("/")
        self.tls: ssl.SSLContext | bool = True if ca_file is None else _context(ca_file)
        # A machine may reach the control plane only through the proxy of its network. Without TLS the proxy would see the
        # secrets; only a control plane on this machine is called so.
        has_tls = base_url.startswith("https://")
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=has_tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def register(self, body: Mapping[str, object]) -> Mapping[str, Any]:
        """Register this host. Raises Unauthorized if the one-time token is wrong, used or expired."""
        return await self._post("/v1/hosts/register", body, timeout_s=_REGISTER_TIMEOUT_S)

    async def refresh(self, body: Mapping[str, object]) -> Mapping[str, Any]:
        """Exchange a refresh token for new credentials. Raises Unauthorized if it is not valid any more."""
        return await self._post("/v1/hosts/auth/refresh", body)

    async def heartbeat(self, host_id: str, token: str, body: Mapping[str, object]) -> bool:
        """Say that this host is alive. Returns whether the control plane asks it to refresh its credentials now.

        Raises:
            HostDeleted: the host was deleted. Unauthorized, Forbidden: the token is not valid any more.
        """
        headers = {HOST_CREDENTIAL_HEADER: token}
        _, answered = await self._send(
            "POST", f"{HOSTS_PREFIX}/{host_id}/heartbeat", json.dumps(body).encode(), headers
        )
        return HOST_RENEWAL_HEADER in answered

    async def send_metrics(self, host_id: str, token: str, body: bytes) -> None:
        """Send samples of sandboxes to be stored. May be repeated. Raises InvalidRequest, TooLarge: it would be refused again."""
        await self._send("POST", f"{HOSTS_PREFIX}/{host_id}/metrics", body, {HOST_CREDENTIAL_HEADER: token})

    async def image(self, host_id: str, token: str, image_id: str) -> Mapping[str, Any]:
        """Return where the manifest of an image is. Raises NotFound if there is none that this host may have."""
        content, _ = await self._send("GET", _image_path(host_id, image_id), None, _image_headers(token))
        return _object(content)

    async def chunk_urls(
        self, host_id: str, token: str, image_id: str, digests: Sequence[str]
    ) -> Mapping[str, Any]:
        """Return signed URLs to read chunks of an image, by digest."""
        return await self._urls(host_id, token, image_id, "chunk-urls", digests)

    async def upload_urls(
        self, host_id: str, token: str, image_id: str, digests: Sequence[str]
    ) -> Mapping[str, Any]:
        """Return signed URLs to write those of these chunks of an image that the store lacks, by digest."""
        return await self._urls(host_id, token, image_id, "upload-urls", digests)

    async def report_damaged_chunk(self, host_id: str, token: str, image_id: str, digest: str) -> None:
        """Report a chunk of an image that is damaged in the store. May be repeated; a control plane of the former release does not know it."""
        await self._send(
            "POST",
            f"{_image_path(host_id, image_id)}/damaged-chunks",
            json.dumps({"digests": [digest]}).encode(),
            {HOST_CREDENTIAL_HEADER: token},
            timeout_s=_URLS_TIMEOUT_S,
        )

    async def put_manifest(self, host_id: str, token: str, image_id: str, manifest: bytes) -> None:
        """Send the manifest of an image whose chunks are in the store. Raises Conflict if one is not."""
        await self._send(
            "PUT",
            f"{_image_path(host_id, image_id)}/manifest",
            manifest,
            {HOST_CREDENTIAL_HEADER: token},
            timeout_s=_MANIFEST_TIMEOUT_S + len(manifest) / _CHECKED_RATE_B,
        )

    async def _urls(
        self, host_id: str, token: str, image_id: str, kind: str, digests: Sequence[str]
    ) -> Mapping[str, Any]:
        content, _ = await self._send(
            "POST",
            f"{_image_path(host_id, image_id)}/{kind}",
            json.dumps({"digests": list(digests)}).encode(),
            _image_headers(token),
            timeout_s=_URLS_TIMEOUT_S,
            limit_b=_URLS_LIMIT_B,
        )
        return _object(content)

    async def _post(
        self, path: str, body: Mapping[str, object], *, timeout_s: float = _TIMEOUT_S
    ) -> Mapping[str, Any]:
        content, _ = await self._send("POST", path, json.dumps(body).encode(), {}, timeout_s=timeout_s)
        return _object(content)

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        timeout_s: float = _TIMEOUT_S,
        limit_b: int = _ANSWER_LIMIT_B,
    ) -> tuple[bytes, Mapping[str, str]]:
        try:
            async with self._session.request(
                method,
                self.base_url + path,
                data=None if body is None else io.BytesIO(body),
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,
                ssl=self.tls,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            ) as response:
                content = await read_bounded(response, limit_b, sender="control plane")
                if not 200 <= response.status < 300:
                    raise _error_of(response.status, content)
                return content, response.headers
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The control plane at {self.base_url} did not answer within {timeout_s:.0f} s."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"The control plane at {self.base_url} cannot be reached: {error}.") from error


def _image_headers(token: str) -> dict[str, str]:
    return {HOST_CREDENTIAL_HEADER: token, HOST_OPENS_SEALED_HEADER: "1"}


def _image_path(host_id: str, image_id: str) -> str:
    return f"{HOSTS_PREFIX}/{host_id}/images/{image_id}"


def _context(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidRequest(f"WRENN_CP_CA_FILE: {ca_file} cannot be read as CA certificates.") from error


def _object(content: bytes) -> Mapping[str, Any]:
    if not content:
        return {}
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise AgentFailure("The control plane sent an answer that cannot be read.")
    return cast("dict[str, Any]", found)


def _error_of(status: int, content: bytes) -> WrennError:
    try:
        said = json.loads(content)["error"]
        code, message = str(said["code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        hint = ": its URL redirects; use the one it redirects to" if 300 <= status < 400 else ""
        code, message = "", f"The control plane answered with the status {status}{hint}."
    # A 404 without the code is a wrong URL or a proxy's, and must cost nothing.
    if status == 404 and code == HOST_DELETED:
        return HostDeleted(message)
    kinds: dict[int, type[WrennError]] = {
        400: InvalidRequest,
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        429: RateLimited,
    }
    kind = error_class(code)
    if kind is InternalError or code == HOST_DELETED:
        # A proxy answered, or the control plane failed.
        kind = kinds.get(status, Unavailable)
    return kind(message)
