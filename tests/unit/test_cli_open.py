"""The page through which `wrenn open` hands its link to a browser."""

from __future__ import annotations

from pathlib import Path

from wrenn.cli.open_dashboard import redirect_page
from wrenn.cli.up.layout import Layout


def test_the_page_is_for_its_owner_and_is_no_markup_but_its_own(tmp_path: Path):
    layout = Layout(tmp_path)
    layout.make()
    first = redirect_page(layout, 'https://wrenn.example/"><script>/sign-in-link#wrl_1')
    assert first.stat().st_mode & 0o777 == 0o600
    assert "<script>" not in first.read_text()
    second = redirect_page(layout, "https://wrenn.example/sign-in-link#wrl_2")
    assert second == first, "one is left, whatever happens"
    assert 'content="0; url=https://wrenn.example/sign-in-link#wrl_2"' in second.read_text()
