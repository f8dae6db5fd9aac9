"""Samples on their way to the control plane: files that outlive the agent, each at most the body of one request."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from wrenn.agent.metrics.series import Batch
from wrenn.base.units import KIB, MIB
from wrenn.protocol.api import METRICS_BODY_LIMIT_B, METRICS_SERIES_LIMIT

_log = logging.getLogger(__name__)

_BODY_B: Final = METRICS_BODY_LIMIT_B // 2
_LIMIT_B: Final = 32 * MIB
"""Of all files; above it the oldest ones are deleted: a control plane that is away for long must not fill the disk."""
_SUFFIX: Final = ".json"
_OVERHEAD_B: Final = KIB // 8
"""Of one batch in the body, beside its samples."""


class Outbox:
    """The files. Its methods block on the disk. `open` and `add` must not run concurrently.

    Attributes:
        on_added: called after a file was written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0
        self.on_added: Callable[[], object] = lambda: None

    def open(self) -> None:
        """Create the folder if it is missing, and delete what an agent that was killed had not written to its end."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.iterdir():
            if path.suffix != _SUFFIX:
                path.unlink(missing_ok=True)
        numbers = [int(path.stem) for path in self.files() if path.stem.isdigit()]
        self._next = max(numbers, default=0) + 1

    def add(self, batches: Sequence[Batch]) -> None:
        """Write these samples, to be sent later. A full disk costs them."""
        for body in _bodies(batches):
            path = self._folder / f"{self._next:012}{_SUFFIX}"
            self._next += 1
            draft = path.with_suffix(".new")
            try:
                draft.write_bytes(body)
                draft.rename(path)
            except OSError as error:
                draft.unlink(missing_ok=True)
                _log.warning("samples of sandboxes are lost", extra={"cause": str(error)})
        if batches:
            self._keep_limit()

    def _keep_limit(self) -> None:
        sizes: dict[Path, int] = {}
        for path in self.files():
            with suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        excess_b = sum(sizes.values()) - _LIMIT_B
        for path, size_b in sizes.items():
            if excess_b <= 0:
                return
            _log.warning("samples of sandboxes are lost: too many are not sent", extra={"file": path.name})
            self.remove(path)
            excess_b -= size_b

    def files(self) -> list[Path]:
        """Return the files, the oldest one first."""
        return sorted(path for path in self._folder.iterdir() if path.suffix == _SUFFIX)

    def next_body(self) -> tuple[bytes, list[Path]]:
        """Return the body of the next request, and the files that it is made of: the oldest ones, as many as fit; none if there are none."""
        series: list[object] = []
        chosen: list[Path] = []
        size_b = 0
        for path in self.files():
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # there were too many
                continue
            try:
                added = json.loads(content)["series"]
            except (ValueError, KeyError, TypeError):  # the machine lost power
                _log.warning("samples of sandboxes are lost: a file is damaged", extra={"file": path.name})
                self.remove(path)
                continue
            size_b += len(content)
            if chosen and (size_b > _BODY_B or len(series) + len(added) > METRICS_SERIES_LIMIT):
                break
            series += added
            chosen.append(path)
        return json.dumps({"series": series}).encode(), chosen

    @staticmethod
    def remove(path: Path) -> None:
        """Delete a file. Idempotent."""
        path.unlink(missing_ok=True)


def _bodies(batches: Sequence[Batch]) -> Iterator[bytes]:
    """Distribute batches over request bodies."""
    series: list[dict[str, str]] = []
    size_b = 0
    for batch in batches:
        packed = base64.b64encode(batch.packed).decode()
        is_full = len(series) == METRICS_SERIES_LIMIT or size_b + len(packed) + _OVERHEAD_B > _BODY_B
        if series and is_full:
            yield json.dumps({"series": series}).encode()
            series, size_b = [], 0
        series.append({"sandbox_id": str(batch.sandbox_id), "tier": str(batch.tier), "samples": packed})
        size_b += len(packed) + _OVERHEAD_B
    if series:
        yield json.dumps({"series": series}).encode()
