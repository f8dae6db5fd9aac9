"""The metadata filter of e2b's clients, which they encode three times."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.control.e2b.metadata_filter import parse_metadata_filter


@pytest.mark.parametrize(
    "labels", [{}, {"a": "1", "b": ""}, {"a=b": "c=d"}, {"a&b": "c&d", "%": "%41"}, {"ü +": "ß +"}]
)
def test_what_clients_encode_is_read(labels: dict[str, str]):
    text = urlencode({quote(key, safe=""): quote(value, safe="") for key, value in labels.items()})
    assert parse_metadata_filter(text) == labels


@pytest.mark.parametrize("text", ["a", "&".join(f"k{n}=v" for n in range(65)), "%25ff=1"])
def test_what_is_no_filter_is_refused(text: str):
    with pytest.raises(InvalidRequest, match="metadata"):
        parse_metadata_filter(text)
