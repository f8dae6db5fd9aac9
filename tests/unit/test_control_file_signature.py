"""Signed URLs of files, as the e2b SDKs make them."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import urlencode

import pytest

from wrenn.base.secrets import Secret
from wrenn.control.proxy.file_signature import SignedFile

TOKEN = Secret("secret")


def request(query: str, method: str = "GET", path: bytes = b"/files") -> dict[str, object]:
    return {"type": "http", "method": method, "raw_path": path, "query_string": query.encode()}


def sign(path: str, operation: str = "read", user: str = "", expiration: str = "") -> str:
    """As the SDK does."""
    text = f"{path}:{operation}:{user}:{TOKEN.reveal()}" + (f":{expiration}" if expiration else "")
    return "v1_" + base64.b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize("path", ["/a", "/a b+c&d=e", "ä/ö", "", "a%41"])
@pytest.mark.parametrize("user", ["", "root"])
@pytest.mark.parametrize("expiration", ["", "1800000000"])
def test_what_the_sdk_signs_is_valid(path: str, user: str, expiration: str) -> None:
    query = {"path": path, "signature": sign(path, user=user, expiration=expiration)}
    query |= {"username": user} if user else {}
    query |= {"signature_expiration": expiration} if expiration else {}
    file = SignedFile.of(request(urlencode(query)))
    assert file is not None
    assert file.is_signed_with(TOKEN)
    assert not file.is_signed_with(Secret("another"))
    assert not file.has_expired(1_800_000_000)
    assert file.has_expired(1_800_000_001) is bool(expiration)


@pytest.mark.parametrize(
    "query",
    [
        "path=/b&signature={read}",
        "path=/a&signature={write}",
        "path=/a&username=root&signature={read}",
        "path=/a&signature_expiration=1&signature={read}",
        "path=/a&signature_expiration=&signature={read}",
        "path=/a&signature_expiration=x&signature={expiring_x}",
        "path=/a&path=/a&signature={read}",
        "path=/a&signature={read}&signature={read}",
        "path=/a&mode=4755&signature={read}",
        "path=/a&owner=root&signature={read}",
        "path=/a&atomic=true&signature={read}",
        "path=/a",
        "path=/a&signature=",
        "",
    ],
)
def test_what_was_altered_or_is_not_clear_is_not_valid(query: str) -> None:
    signed = {"read": sign("/a"), "write": sign("/a", "write"), "expiring_x": sign("/a", expiration="x")}
    escaped = {name: value.replace("+", "%2B") for name, value in signed.items()}
    file = SignedFile.of(request(query.format(**escaped)))
    assert file is not None
    assert not file.is_signed_with(TOKEN)


def test_a_signature_for_reading_does_not_write() -> None:
    query = urlencode({"path": "/a", "signature": sign("/a")})
    for method, valid in {"GET": True, "HEAD": True, "POST": False}.items():
        file = SignedFile.of(request(query, method))
        assert file is not None
        assert file.is_signed_with(TOKEN) is valid
    assert SignedFile.of(request(query, "DELETE")) is None


@pytest.mark.parametrize("path", [b"/files/", b"//files", b"/files/tar", b"/%66iles", b"/init"])
def test_other_paths_have_no_signature(path: bytes) -> None:
    assert SignedFile.of(request("signature=x", path=path)) is None
