"""The error tree: codes are the API's."""

from __future__ import annotations

import pytest

from wrenn.base import errors
from wrenn.base.errors import WrennError, error_class

_CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, WrennError) and value is not WrennError
]


@pytest.mark.parametrize("cls", _CLASSES)
def test_a_code_leads_back_to_its_class(cls: type[WrennError]) -> None:
    assert error_class(cls.code) is cls


def test_a_code_of_a_newer_version_is_an_internal_error() -> None:
    assert error_class("made_up_tomorrow") is errors.InternalError


def test_no_two_classes_share_a_code() -> None:
    codes = [cls.code for cls in _CLASSES]
    assert sorted(codes) == sorted(set(codes))


def test_the_message_is_public_and_the_context_is_not_in_it() -> None:
    error = errors.Unavailable("The host does not answer.", context={"address": "10.0.0.7"})
    assert str(error) == "The host does not answer."
    assert error.context == {"address": "10.0.0.7"}
    assert error.retryable
