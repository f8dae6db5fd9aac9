"""The SDK's parts that need no platform: settings, answers, uploads, generated twin, import time."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import wrenn
from wrenn import (
    AuthenticationError,
    CapacityError,
    InvalidRequestError,
    NotFoundError,
    UnexpectedAnswerError,
)
from wrenn.sdk._form import UploadForm
from wrenn.sdk._io import chunks_of
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import error_for
from wrenn.sdk.settings import client_settings
from wrenn.sdk.types import CommandResult, SandboxInfo

ROOT = Path(__file__).resolve().parent.parent.parent
INFO: dict[str, object] = {
    "id": "cl-x",
    "status": "running",
    "template": "minimal",
    "vcpus": 1,
    "memory_mb": 512,
    "timeout_sec": 0,
    "created_at": "2026-01-02T03:04:05Z",
}


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_API_KEY", "wrn_env")
    monkeypatch.setenv("WRENN_BASE_URL", "https://env.example/api/")
    assert client_settings().base_url == "https://env.example/api"
    given = client_settings(api_key="wrn_given", base_url="http://127.0.0.1:1")
    assert given.api_key is not None
    assert (given.api_key.reveal(), given.is_local) == ("wrn_given", True)
    assert "wrn_given" not in repr(given)


def test_no_key_is_an_authentication_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRENN_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="WRENN_API_KEY"):
        client_settings()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://a:b@x", "http://x?q", "http://x:99999"]
)
def test_a_base_url_that_cannot_be_right_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="base URL"):
        client_settings(api_key="wrn_x", base_url=url)


def test_a_key_that_would_break_the_header_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        client_settings(api_key="wrn_x\r\nHost: evil")


def test_unknown_fields_are_ignored_and_missing_ones_named() -> None:
    info = SandboxInfo.parse(Fields("sandbox", {**INFO, "newer": 1}))
    assert info.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert info.started_at is None
    with pytest.raises(UnexpectedAnswerError, match=r"sandbox\.vcpus"):
        SandboxInfo.parse(Fields("sandbox", {**INFO, "vcpus": "1"}))
    with pytest.raises(UnexpectedAnswerError, match=r"sandbox\.created_at"):
        SandboxInfo.parse(Fields("sandbox", {**INFO, "created_at": "2026-01-02T03:04:05"}))


def test_output_is_bytes_in_either_encoding() -> None:
    fields = {"stdout": "/wA=", "stderr": "", "encoding": "base64", "exit_code": 0, "duration_ms": 5}
    assert CommandResult.parse(Fields("result", fields)).stdout_bytes == b"\xff\x00"
    for broken in ({"stdout": "?"}, {"encoding": "rot13"}, {"exit_code": True}):
        with pytest.raises(UnexpectedAnswerError):
            CommandResult.parse(Fields("result", {**fields, **broken}))


def test_what_is_not_json_says_so() -> None:
    with pytest.raises(UnexpectedAnswerError, match="base URL"):
        json_of(b"<html>")


def test_the_class_follows_the_code_and_else_the_status() -> None:
    assert type(error_for(507, "storage_full", "full", None)) is CapacityError
    unknown = error_for(404, "template_gone", "gone", "req-1")
    assert type(unknown) is NotFoundError
    assert (unknown.code, unknown.request_id) == ("template_gone", "req-1")
    assert type(error_for(302, None, "moved", None)) is UnexpectedAnswerError


@pytest.mark.parametrize(
    "source", ["text", b"text", io.BytesIO(b"text"), iter([b"te", b"xt"])], ids=lambda s: type(s).__name__
)
def test_every_source_gives_its_bytes(source: str | bytes | io.BytesIO) -> None:
    assert b"".join(chunks_of(source)) == b"text"


def test_the_path_stands_before_the_file_in_an_upload() -> None:
    form = UploadForm({"path": "/tmp/ü"})
    assert form.head.index("/tmp/ü".encode()) < form.head.index(b'name="file"')
    boundary = form.content_type.rpartition("=")[2].encode()
    assert form.tail == b"\r\n--" + boundary + b"--\r\n"
    assert UploadForm({"path": "/tmp/ü"}).content_type != form.content_type


def test_the_synchronous_client_is_generated() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools/unasync.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_every_public_name_is_there_and_others_are_not() -> None:
    for name in wrenn.__all__:
        assert getattr(wrenn, name).__doc__
    assert set(wrenn.__all__) <= set(dir(wrenn))
    with pytest.raises(AttributeError, match="Sandboxes"):
        _ = wrenn.Sandboxes  # type: ignore[attr-defined]


def test_the_import_loads_no_http_client() -> None:
    code = "import sys, wrenn; assert 'wrenn.sdk' not in sys.modules; from wrenn import Sandbox; print('httpx2' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
