"""For all suites: what this machine cannot run is skipped, and the summary says why."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by marker; the markers are described in pyproject.toml."""
    missing: dict[str, str] = {}
    if os.geteuid() != 0:
        missing["root"] = "needs root; run: sudo make test"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing["kvm"] = "this machine has no usable /dev/kvm"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
