"""The streaming multipart reader, piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrenn.base.errors import InvalidRequest, TooLarge
from wrenn.control.guests.upload_form import UploadForm

TYPE = "multipart/form-data; boundary=edge"


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def form(content: bytes, path: bytes = b"/a") -> bytes:
    return (
        b'--edge\r\nContent-Disposition: form-data; name="path"\r\n\r\n' + path + b"\r\n"
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        + content
        + b"\r\n--edge--\r\n"
    )


async def read(body: bytes, size: int) -> tuple[dict[str, str], bytes]:
    upload = UploadForm(TYPE, pieces(body, size))
    fields = await upload.fields()
    return fields, b"".join([chunk async for chunk in upload.file()])


@given(
    content=st.binary(max_size=300).filter(lambda c: b"\r\n--edge" not in b"\r\n" + c),
    size=st.integers(1, 80),
)
@settings(deadline=None, max_examples=150)
async def test_the_content_is_the_same_however_it_is_cut(content: bytes, size: int):
    assert await read(form(content), size) == ({"path": "/a"}, content)


@given(body=st.binary(max_size=200), size=st.integers(1, 50))
@settings(deadline=None, max_examples=150)
async def test_any_bytes_are_a_form_or_a_clear_refusal(body: bytes, size: int):
    with suppress(InvalidRequest, TooLarge):
        await read(b"--edge\r\n" + body, size)


async def test_fields_before_the_file_are_bounded():
    with pytest.raises(TooLarge):
        await read(form(b"", path=b"/" + b"a" * 10_000), 100)
    part = b'--edge\r\nContent-Disposition: form-data; name="n%d"\r\n\r\nx\r\n'
    with pytest.raises(InvalidRequest, match="too many"):
        await read(b"".join(part % n for n in range(20)), 100)
