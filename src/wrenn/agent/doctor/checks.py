"""What a check of the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What it means when a check is not ok: an error makes the machine unfit, a warning is to be known."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `hint` says what to do when it is not ok."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    severity: Severity = Severity.ERROR

    @property
    def failed(self) -> bool:
        """Whether the machine is not in order because of it."""
        return not self.ok and self.severity is Severity.ERROR
