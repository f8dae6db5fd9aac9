"""Where the CLI finds URL and key when the environment does not say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wrenn.base.errors import NotFound
from wrenn.cli.settings import use_credentials, use_profile
from wrenn.sdk.settings import client_settings

URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder with a key, and nobody logged in."""
    (tmp_path / "env").write_text(f"WRENN_BASE_URL={URL}\nWRENN_API_KEY=wrn_of_this_machine\n")
    monkeypatch.setenv("WRENN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("WRENN_BASE_URL", "WRENN_API_KEY", "WRENN_PROFILE"):
        # Set first, so that what the code under test sets is taken back.
        monkeypatch.setenv(name, "")
        del os.environ[name]


@pytest.mark.parametrize("url", [None, URL, f"{URL}/", f"{URL}/v1"])
def test_the_key_of_the_data_folder_is_used_for_its_own_platform(
    url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url is not None:
        monkeypatch.setenv("WRENN_BASE_URL", url)
    use_credentials()
    assert os.environ["WRENN_API_KEY"] == "wrn_of_this_machine"


def test_the_key_of_the_data_folder_goes_to_no_other_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_BASE_URL", "https://elsewhere.example")
    use_credentials()
    assert "WRENN_API_KEY" not in os.environ


def test_the_key_of_the_data_folder_is_not_taken_for_a_profile_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WRENN_PROFILE", "nosuch")
    use_credentials()
    assert "WRENN_API_KEY" not in os.environ


def test_an_option_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_API_KEY", "wrn_of_the_environment")
    monkeypatch.setenv("WRENN_BASE_URL", "https://elsewhere.example")
    with pytest.raises(NotFound, match="no profile work"):
        use_profile("work", may_be_new=False)
    assert os.environ["WRENN_API_KEY"] == "wrn_of_the_environment"
    file = tmp_path / "config/wrenn/credentials.toml"
    file.parent.mkdir(parents=True)
    fields = {
        "base_url": URL,
        "email": "a@example.com",
        "api_key": "wrn_of_work",
        "key_id": "k",
        "refresh_token": "r",
    }
    file.write_text("[work]\n" + "".join(f'{name} = "{value}"\n' for name, value in fields.items()))
    use_profile("work", may_be_new=False)
    chosen = client_settings()
    assert chosen.api_key is not None
    assert (chosen.base_url, chosen.api_key.reveal()) == (URL, "wrn_of_work")
