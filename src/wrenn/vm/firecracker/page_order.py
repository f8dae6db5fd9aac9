"""The order in which a VM needs the pages of its memory until its guest answers: recorded at one start, used at the next ones.

An order is only a hint for the page-fault server, which fills these pages before the VM waits for them. Nothing depends on its content, which
a guest influences, and what cannot be stored is only logged.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.units import KIB

_log = logging.getLogger(__name__)

ORDER_NAME: Final = "pages.order"
"""In the folder of a machine: the order of its own memory, each time that it continues from a pause."""
IMAGE_ORDER_NAME: Final = ".pages.order"
"""In the folder of a base or snapshot: that of VMs which start from its image. Files whose names begin with a dot are not part of a snapshot."""
RECORDED_NAME: Final = "pages.recorded"
"""In the folder of a machine: the pages that it has waited for since it was started."""
NUMBER_B: Final = 4
"""Size of a page's number in these files."""
_LIMIT_B: Final = 64 * KIB
"""A start needs some hundred chunks. So many would be no order, but the whole memory of most VMs."""


@dataclass(frozen=True, slots=True)
class PageOrder:
    """The order of one start.

    Attributes:
        stored: file with the order of an earlier start, if there was one.
        recorded: file to which the page-fault server appends the pages that the VM waits for.
    """

    stored: Path
    recorded: Path

    def begin(self) -> Path | None:
        """Forget what an earlier start recorded; return the file with the order to use, if there is one. Blocking."""
        self.recorded.unlink(missing_ok=True)
        return self.stored if self.stored.exists() else None

    def keep(self) -> None:
        """Store what was recorded until now, unless there is an order. Blocking. Never raises."""
        if self.stored.exists():
            return
        scratch = self.stored.with_name(f".{self.stored.name.lstrip('.')}.{self.recorded.parent.name}")
        try:
            with self.recorded.open("rb") as file:
                pages = file.read(_LIMIT_B)
            if pages:
                scratch.write_bytes(pages)
                scratch.rename(self.stored)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            fields = {"vm": self.recorded.parent.name, "cause": repr(error)}
            _log.warning("the order in which a VM needs its memory is not stored", extra=fields)
