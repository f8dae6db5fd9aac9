"""Typed ids: wire form and its limits."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId, TeamId, random_hex

_LARGEST = (1 << 128) - 1
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits.rjust(25, "0")


@given(st.uuids())
def test_an_id_is_read_back_from_its_wire_form(value: uuid.UUID) -> None:
    assert SandboxId.parse(str(SandboxId(value))) == SandboxId(value)


@given(st.uuids())
def test_a_sandbox_id_is_read_back_without_its_prefix(value: uuid.UUID) -> None:
    sandbox_id = SandboxId(value)
    assert f"cl-{sandbox_id.without_prefix}" == str(sandbox_id)
    assert SandboxId.parse(sandbox_id.without_prefix) == sandbox_id


def test_ids_of_other_kinds_need_their_prefix() -> None:
    with pytest.raises(InvalidRequest, match="team id"):
        TeamId.parse("0" * 25)


@given(st.text())
def test_any_text_is_read_or_refused_as_bad_input(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert str(TeamId.parse(text)) == text


def test_the_smallest_and_the_largest_uuid_have_25_digits() -> None:
    assert str(SandboxId(uuid.UUID(int=0))) == "cl-" + "0" * 25
    assert str(SandboxId(uuid.UUID(int=_LARGEST))) == "cl-" + _base36(_LARGEST)


def test_two_to_the_128_is_refused() -> None:
    assert SandboxId.parse("cl-" + _base36(_LARGEST)).value.int == _LARGEST
    with pytest.raises(InvalidRequest):
        SandboxId.parse("cl-" + _base36(_LARGEST + 1))
    with pytest.raises(InvalidRequest):
        SandboxId.parse("cl-" + "z" * 25)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cl-",
        "0" * 24,
        "cl-" + "0" * 24,
        "cl-cl-" + "0" * 25,
        "cl-" + "0" * 26,
        "cl-" + "A" * 25,
        "CL-" + "0" * 25,
        "team-" + "0" * 25,
        "cl-" + "0" * 24 + "\n",
        "cl-" + "٣" * 25,  # a digit to str.isdigit(), not to us
    ],
)
def test_what_is_not_a_sandbox_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="sandbox id"):
        SandboxId.parse(text)


def test_ids_of_two_kinds_are_never_equal() -> None:
    value = uuid.uuid4()
    assert SandboxId(value) != TeamId(value)


def test_random_hex_has_two_digits_a_byte() -> None:
    assert len(bytes.fromhex(random_hex(20))) == 20


@given(st.uuids(), st.integers(1, 25), st.booleans())
def test_the_beginning_of_an_id_is_a_range_with_it(value: uuid.UUID, length: int, has_prefix: bool) -> None:
    text = str(SandboxId(value))[3:]
    begun = ("cl-" if has_prefix else "") + text[:length]
    found = SandboxId.with_prefix(begun.upper() if has_prefix else begun)
    assert found is not None
    lowest, highest = found
    assert lowest <= SandboxId(value) <= highest
    for edge in (lowest, highest):
        assert str(edge)[3:].startswith(text[:length])
    if lowest.value.int:
        before = str(SandboxId(uuid.UUID(int=lowest.value.int - 1)))
        assert not before[3:].startswith(text[:length])


@pytest.mark.parametrize("text", ["", "cl-", "g" * 25, "z", "a b", "a" * 26, "ä", "team-1"])
def test_what_no_id_begins_with_is_no_range(text: str) -> None:
    assert SandboxId.with_prefix(text) is None
