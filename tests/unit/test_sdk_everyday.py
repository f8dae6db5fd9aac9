"""What people give to the SDK, and what it says back: addresses, contents, limits, reasons."""

from __future__ import annotations

import array
import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wrenn import AsyncSandbox, CommandResult, GitError, InvalidRequestError, NetworkPolicy
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._parse import Fields
from wrenn.sdk._paths import with_path
from wrenn.sdk._source import as_bytes
from wrenn.sdk.settings import client_settings
from wrenn.sdk.types import FileEntry


@pytest.mark.parametrize("url", ["http://x:8000/v1", "http://x:8000/v1/", "http://x:8000", "http://x:8000//"])
def test_a_base_url_may_end_with_the_version_of_the_api(url: str) -> None:
    assert client_settings(api_key="wrn_x", base_url=url).base_url == "http://x:8000"


@pytest.mark.parametrize("parts", [("",), (" ", "ping"), ("cl-x", "processes", ""), ("..",), ("cl-x", "..")])
def test_an_empty_id_is_refused_before_a_call(parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        path_of(*parts)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "http://h:1/"),
        ("", "http://h:1/"),
        ("a/b", "http://h:1/a/b"),
        ("//a?q=1", "http://h:1/a?q=1"),
    ],
)
def test_a_path_is_joined_with_one_slash(path: str, expected: str) -> None:
    assert with_path("http://h:1/", path) == expected
    assert with_path("http://h:1/?key=k", "/a?q=1") == "http://h:1/a?q=1&key=k"


async def test_the_url_of_a_port_takes_a_path() -> None:
    api = AsyncApi(client_settings(api_key="wrn_x", base_url="http://127.0.0.1:8000"))
    sandbox = AsyncSandbox(api, "cl-x")
    assert await sandbox.get_url(3000, path="/docs") == "http://3000-cl-x.localhost:8000/docs"
    await api.close()


def test_whatever_has_bytes_is_content(tmp_path: Path) -> None:
    for data in (
        "é",
        "é".encode(),
        bytearray("é".encode()),
        memoryview("é".encode()),
        array.array("B", b"\xc3\xa9"),
    ):
        assert as_bytes(data) == b"\xc3\xa9"
    assert as_bytes(iter([b"x"])) is None
    (tmp_path / "f").write_bytes(b"x")
    with (tmp_path / "f").open("rb") as file:
        assert as_bytes(file) is None


def test_a_git_error_has_the_cause_and_not_only_the_last_line() -> None:
    stderr = b"hint: x\nerror: cannot lock ref 'refs/heads/a'\nfatal: could not write\n\n"
    error = GitError(CommandResult(b"", stderr, 128, 1))
    assert str(error) == (
        "git ended with exit code 128:\nerror: cannot lock ref 'refs/heads/a'\nfatal: could not write"
    )
    assert error.message == str(error)
    # Some refusals are on standard output.
    assert "nothing to commit" in str(GitError(CommandResult(b"nothing to commit\n", b"", 1, 1)))


@pytest.mark.parametrize("seconds", [2**63, 2**40, -(2**62), 0])
def test_a_file_of_any_time_is_shown(seconds: int) -> None:
    fields = {
        "name": "f", "path": "/f", "type": "file", "size": 0, "mode": 0, "permissions": "-", "owner": "root",
        "group": "root", "modified_at": seconds,
    }  # fmt: skip
    shown = FileEntry.parse(Fields("entry", fields)).modified_at
    assert datetime.min.replace(tzinfo=UTC) <= shown <= datetime.max.replace(tzinfo=UTC)


def test_a_limit_below_zero_is_refused() -> None:
    async def attempt() -> None:
        api = AsyncApi(client_settings(api_key="wrn_x", base_url="http://127.0.0.1:9"))
        with pytest.raises(InvalidRequestError, match="at least 0"):
            await AsyncSandbox(api, "cl-x").commands.run("true", timeout_s=-1)

    asyncio.run(attempt())


def test_a_single_network_is_not_taken_for_a_list_of_letters() -> None:
    policy = NetworkPolicy(allow="203.0.113.7", deny=["198.51.100.0/24"])  # pyright: ignore[reportArgumentType]
    assert (policy.allow, policy.deny) == (("203.0.113.7",), ("198.51.100.0/24",))


@pytest.mark.parametrize("cmd", [None, 5])
async def test_a_command_that_is_neither_text_nor_list_is_refused_in_words(cmd: Any) -> None:
    sandbox = AsyncSandbox(AsyncApi(client_settings(api_key="wrn_x", base_url="http://127.0.0.1:9")), "cl-x")
    with pytest.raises(InvalidRequestError, match="a text or a list of texts"):
        await sandbox.commands.run(cmd)
