"""The dashboard shows only metrics that docs/operations/metrics.md describes, and that page only metrics that the code has."""

from __future__ import annotations

import json
import re

from tests.repo.source import ROOT

_NAME = re.compile(r"\bwrenn_(?:agent|http|host|loop|sandbox|sandboxes|database)_?[a-z_]*\b")
_SUFFIX = re.compile(r"_(bucket|count|sum|total)$")
_PAGE = ROOT / "docs/operations/metrics.md"


def _base(names: set[str]) -> set[str]:
    return {_SUFFIX.sub("", name) for name in names}


def test_the_dashboard_shows_metrics_that_are_described() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/wrenn.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    shown = _base({name for expression in expressions for name in _NAME.findall(expression)})
    assert shown
    assert shown <= _base(set(_NAME.findall(_PAGE.read_text())))


def test_metrics_that_are_described_exist() -> None:
    prefixes = {"wrenn_http", "wrenn_agent"}
    code = "".join(path.read_text() for path in (ROOT / "src/wrenn").rglob("*metrics*.py"))
    defined = set(_NAME.findall(code)) | {
        f"{prefix}_{name}"
        for prefix in prefixes
        for name in ("requests", "request_duration_seconds", "requests_in_progress")
    }
    assert _base(set(_NAME.findall(_PAGE.read_text()))) - _base(defined) == set()
