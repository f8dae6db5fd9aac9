"""Writes what the background loops did last to a file in the data folder, for `wrenn status`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from wrenn.base.loops import Loop

FILE: Final = "control-loops.json"
_EVERY_S: Final = 2.0


class LoopReport:
    """Writes the report at an interval. Of several replicas in one data folder the last one wins."""

    def __init__(self, data_dir: Path, loops: Sequence[Loop]) -> None:
        self._path = data_dir / FILE
        self._loops = loops
        self.loop = Loop("report loops")

    async def run(self) -> None:
        """Write the report at an interval, until cancelled."""
        await self.loop.run(self._write, every_s=_EVERY_S)

    async def _write(self) -> None:
        # A few hundred bytes: not worth a thread. Readers see the former report or this one, never a part.
        scratch = self._path.with_name(f".{FILE}.{os.getpid()}")
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps([asdict(loop.status) for loop in self._loops]))
        scratch.replace(self._path)
