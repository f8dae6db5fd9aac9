"""What lies behind the API: journals, VMMs, what a paused sandbox's memory takes."""

from __future__ import annotations

from pathlib import Path

from wrenn.agent.sandboxes import Record, journal
from wrenn.storage import snapshots


def record_of(data_dir: Path, sandbox_id: str) -> Record:
    """What the agent has written down of a sandbox."""
    record = journal.load(data_dir / "sandboxes" / sandbox_id)
    assert record is not None, f"{sandbox_id} is not there"
    return record


def slot_of(data_dir: Path, sandbox_id: str) -> int:
    """Its network slot."""
    slot = record_of(data_dir, sandbox_id).slot
    assert slot is not None, f"{sandbox_id} does not run"
    return slot


def vmm_of(data_dir: Path, sandbox_id: str) -> int:
    """Process id of its VMM."""
    process = record_of(data_dir, sandbox_id).process
    assert process is not None, f"{sandbox_id} does not run"
    return process.pid


def diff_b(data_dir: Path, sandbox_id: str) -> int:
    """Size of a paused sandbox's memory diff."""
    record = record_of(data_dir, sandbox_id)
    return snapshots.find(data_dir / "snapshots", record.snapshot).manifest.memory_size_b
