"""Names of files as text: one text a name, one name a text."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn.base.file_name_encoding import name_to_text, path_to_text, text_to_name


@given(st.binary())
def test_every_name_comes_back_from_its_text(name: bytes) -> None:
    text = name_to_text(name)
    text.encode()
    assert text_to_name(text) == name
    assert path_to_text(name) == text == path_to_text(text)


@given(st.binary())
def test_names_of_python_are_the_same_name(name: bytes) -> None:
    decoded = os.fsdecode(name)
    # Text that looks like an escape of ours is taken for one: such names must be given as bytes.
    if not re.search("[\U0010fe80-\U0010feff]", decoded):
        assert text_to_name(path_to_text(decoded)) == name


def test_the_guest_agent_writes_them_alike() -> None:
    """The examples of `rust/envd/src/paths.rs`."""
    assert name_to_text(b"\xff") == "\U0010feff"
    assert name_to_text("\U0010fe80x".encode()) == "\U0010fef4\U0010fe8f\U0010feba\U0010fe80x"
    assert name_to_text("grün-€\n".encode()) == "grün-€\n"
    assert name_to_text(b"half \xe2\x82") == "half \U0010fee2\U0010fe82"


def test_a_text_that_is_no_text_is_refused() -> None:
    for broken in ("\ud800", "a\udfff"):
        with pytest.raises(UnicodeEncodeError):
            text_to_name(broken)
        with pytest.raises(UnicodeEncodeError):
            path_to_text(broken)
    with pytest.raises(UnicodeEncodeError):
        text_to_name("\udc80")
