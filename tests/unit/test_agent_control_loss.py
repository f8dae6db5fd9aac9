"""When the control plane counts as lost: the pure decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.agent.control_loss import Outage, load_outage
from wrenn.agent.settings import Settings
from wrenn.base.errors import InvalidRequest

RUNNING = ("cl-1", "cl-2")


def failed(outage: Outage, passed_s: float, *, lost_after_s: float = 100.0) -> Outage:
    return outage.after_failed_beat(
        passed_s=passed_s, heartbeat_s=30, lost_after_s=lost_after_s, running=RUNNING
    )


def test_failed_heartbeats_add_up_until_the_control_plane_is_lost():
    outage = Outage("boot")
    for waited_s in (30, 60, 90):
        outage = failed(outage, 30)
        assert (outage.waited_s, outage.is_lost, outage.to_pause) == (waited_s, False, ())
    outage = failed(outage, 30)
    assert (outage.waited_s, outage.is_lost, outage.to_pause) == (120, True, RUNNING)


def test_only_those_that_ran_when_it_was_lost_are_paused():
    outage = failed(Outage("boot", waited_s=99), 30).without("cl-1", is_paused=True)
    outage = outage.after_failed_beat(passed_s=30, heartbeat_s=30, lost_after_s=100, running=["cl-1", "cl-3"])
    assert (outage.to_pause, outage.paused) == (("cl-2",), 1)
    outage = outage.without("cl-2", is_paused=False)
    assert (outage.to_pause, outage.paused) == ((), 1)


def test_with_0_it_is_never_lost():
    assert not failed(Outage("boot", waited_s=1e9), 30, lost_after_s=0).is_lost


def test_a_time_in_which_the_process_stood_still_is_not_counted():
    assert failed(Outage("boot"), 7200, lost_after_s=3600).waited_s == 90


def test_what_a_former_agent_recorded_counts_in_the_same_boot_only(tmp_path: Path):
    path = tmp_path / "outage.json"
    assert load_outage(path, boot="one") == Outage("one")
    path.write_text('{"boot": "one", "waited_s": 70.5, "is_lost": true, "to_pause": ["cl-1"], "paused": 3}')
    assert load_outage(path, boot="one") == Outage("one", 70.5, is_lost=True, to_pause=("cl-1",), paused=3)
    assert load_outage(path, boot="two") == Outage("two")
    for damaged in ("", "[]", "{}", '{"boot": "one", "waited_s": "x"}'):
        path.write_text(damaged)
        assert load_outage(path, boot="one") == Outage("one")


def test_the_setting_is_a_number_of_seconds_and_an_hour_unless_it_is_set():
    def read(text: str) -> float:
        return Settings.from_environment({"WRENN_CP_LOST_AFTER_S": text}).control_lost_after_s

    assert (Settings.from_environment({}).control_lost_after_s, read("0"), read("90")) == (3600, 0, 90)
    for wrong in ("-1", "never", "nan", "inf"):
        with pytest.raises(InvalidRequest, match="WRENN_CP_LOST_AFTER_S"):
            read(wrong)
