"""Chooses the host for a new sandbox: pure functions on values."""

from wrenn.control.placement.choose import (
    NO_LOAD,
    Score,
    Verdict,
    check_larger_disk,
    choose_host,
    judge,
    ranked,
    refusal,
)
from wrenn.control.placement.filters import FILTERS, FilterName, Load, Overcommit, Wanted, answers

__all__ = [
    "FILTERS",
    "NO_LOAD",
    "FilterName",
    "Load",
    "Overcommit",
    "Score",
    "Verdict",
    "Wanted",
    "answers",
    "check_larger_disk",
    "choose_host",
    "judge",
    "ranked",
    "refusal",
]
