"""`wrenn hosts drain` while the platform is silent: it waits a minute, and not beyond `--timeout`. Takes a second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from wrenn.base.secrets import Secret
from wrenn.cli import credentials, drain
from wrenn.cli.up.progress import Progress
from wrenn.sdk.errors import ConnectionFailedError, DeadlineExceededError
from wrenn.sdk.profiles import Profile


@pytest.fixture(autouse=True)
def nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session at a platform that is being restarted."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    profile = Profile("http://127.0.0.1:1", "ada@example.com", Secret("key"), "id", Secret("token"))
    with credentials.locked():
        credentials.save("default", profile)


def test_the_time_that_was_asked_for_also_ends_the_wait_for_an_answer():
    with pytest.raises(DeadlineExceededError, match="not known whether"):
        drain.follow("/v1/hosts/x", Progress(), timeout_s=0.1)


def test_the_session_may_be_continued_late(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drain, "_SILENT_FOR_S", 0.6)
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError):
        drain.follow("/v1/hosts/x", Progress(), timeout_s=None)
    assert time.monotonic() - began > 0.6
