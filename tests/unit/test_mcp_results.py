"""Parts of a file as an MCP client reads them, one after the other."""

from __future__ import annotations

import pytest

from wrenn.mcp.results import FileText


def parts_of(content: bytes, part_b: int) -> list[FileText]:
    parts = list[FileText]()
    offset: int | None = 0
    while offset is not None:
        parts.append(FileText.of(content[offset : offset + part_b], offset=offset, size=len(content)))
        offset = parts[-1].next_offset
        assert len(parts) <= max(len(content), 1), "no part is empty"
    return parts


@pytest.mark.parametrize("part_b", [4, 5, 7, 64])
@pytest.mark.parametrize("text", ["", "x" + "ä" * 100, "äß│🙂" * 40, "🙂"])
def test_the_parts_of_a_text_are_the_text(text: str, part_b: int) -> None:
    parts = parts_of(text.encode(), part_b)
    assert "".join(part.text for part in parts) == text
    assert all(part.is_exact for part in parts)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" * 10, b"text \xe9 text", "ä".encode()[:1]])
def test_what_is_no_text_is_said_to_be_damaged_by_writing_it_back(content: bytes) -> None:
    assert not all(part.is_exact for part in parts_of(content, 8))


def test_an_offset_within_a_character_is_no_exact_text() -> None:
    assert not FileText.of("ä│".encode()[1:], offset=1, size=5).is_exact
