"""The hint of `wrenn link` on machines that do not resolve names below `localhost`."""

from __future__ import annotations

import pytest

from wrenn.cli.port import hint_unresolved


def test_a_name_that_this_machine_does_not_resolve_is_reported_with_a_fix(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hint_unresolved("http://8000-cl-x.localhost:8000/?wrenn_link=secret", lambda _: False)
    told = capsys.readouterr()
    assert told.out == ""
    assert "'127.0.0.1 8000-cl-x.localhost' to /etc/hosts" in told.err
    assert "wrenn port" in told.err
    assert "secret" not in told.err


@pytest.mark.parametrize(
    ("url", "resolves"),
    [("http://8000-cl-x.localhost:8000/", True), ("https://8000-cl-x.boxes.example/", False)],
)
def test_names_that_resolve_or_are_of_a_domain_need_no_hint(
    capsys: pytest.CaptureFixture[str], url: str, resolves: bool
) -> None:
    asked: list[str] = []

    def answer(host: str) -> bool:
        asked.append(host)
        return resolves

    hint_unresolved(url, answer)
    assert capsys.readouterr().err == ""
    assert asked == [host for host in ["8000-cl-x.localhost"] if host in url]
