"""Journals that agents of former versions wrote can be read, and theirs can read ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wrenn.agent.sandboxes import NetworkSettings, State, journal
from wrenn.network import EgressPolicy

FORMER = Path(__file__).with_name("journal_of_0_1.json")
"""Written by version 0.1.0 before it had causes and generations."""


def test_a_journal_of_a_former_version_is_read_and_keeps_all_it_had(tmp_path: Path) -> None:
    shutil.copy(FORMER, tmp_path / "journal.json")
    record = journal.load(tmp_path)
    assert record is not None
    assert (record.state, record.cause, record.spec.generation) == (State.PAUSED, "", 0)
    policy = EgressPolicy.parse(allow_internet=False, allow=["10.0.0.0/8"], deny=[])
    assert record.network == NetworkSettings(policy, 4)
    journal.save(tmp_path, record)
    former, now = json.loads(FORMER.read_text()), json.loads((tmp_path / "journal.json").read_text())
    for before, after in ((former.pop("spec"), now.pop("spec")), (former, now)):
        assert {key: after.get(key) for key in before} == before, "a former agent can read it"
    assert journal.load(tmp_path) == record
