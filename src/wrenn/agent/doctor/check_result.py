"""The result type of the doctor's checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How a failed check counts: an error makes the machine unfit, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `hint` says how to fix a failure."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    severity: Severity = Severity.ERROR

    @property
    def failed(self) -> bool:
        """Whether the check makes the machine unfit."""
        return not self.ok and self.severity is Severity.ERROR
