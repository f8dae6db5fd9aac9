"""Journals that agents of former versions wrote can be read, and theirs can read ours."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
    parts = [(former.pop(name), now.pop(name)) for name in ("spec", "network")]
    for before, after in (*parts, (former, now)):
        assert {key: after.get(key) for key in before} == before, "a former agent can read it"
    assert journal.load(tmp_path) == record


def test_names_in_a_policy_are_written_where_a_former_agent_does_not_see_them(tmp_path: Path) -> None:
    shutil.copy(FORMER, tmp_path / "journal.json")
    record = journal.load(tmp_path)
    assert record is not None
    policy = EgressPolicy.parse(allow_internet=False, allow=["10.0.0.0/8", "example.com", "*.example.org"])
    record = replace(record, network=NetworkSettings(policy, 5))
    journal.save(tmp_path, record)
    assert journal.load(tmp_path) == record
    assert json.loads((tmp_path / "journal.json").read_text())["network"]["allow"] == ["10.0.0.0/8"]
