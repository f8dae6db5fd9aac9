"""What is forwarded of a visit under the host name of the API's pages."""

from __future__ import annotations

from typing import Any

import pytest

from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.control.proxy.port_target import PortTarget
from wrenn.control.proxy.request_head import may_be_code_run, request_headers, response_headers


@pytest.mark.parametrize(
    "path",
    [
        b"/execute", b"/%65xecute", b"/%2565xecute", b"//execute", b"/execute/", b"/./execute", b"/a/../execute", b"/..%2fexecute",
        b"/execute;a=b", b"/Execute", b"\\execute", b"/%2e/execute",
    ],
)  # fmt: skip
def test_every_spelling_of_the_path_that_runs_code_needs_the_token(path: bytes):
    assert may_be_code_run(path)


@pytest.mark.parametrize(
    "path", [b"/", b"/executes", b"/a/execute", b"/execute/..", b"/%65", b"/health", b"/contexts"]
)
def test_other_paths_of_the_code_interpreter_do_not(path: bytes):
    assert not may_be_code_run(path)


@pytest.mark.parametrize("name", ["set-cookie", "location", "strict-transport-security", "nel", "refresh"])
def test_a_guest_agent_cannot_speak_for_the_apis_host(name: str):
    target = PortTarget(
        SandboxId.parse("cl-" + "0" * 25), 49983, by_headers=True, by_signature=True, is_e2b=True
    )
    scope: dict[str, Any] = {"headers": [(b"host", b"dashboard.test")], "scheme": "https"}
    said = [(name.encode(), b"x"), (b"content-type", b"text/html"), (b"content-length", b"1")]
    answered = response_headers(said, scope, target, is_public=False)
    assert name.encode() not in dict(answered)
    assert dict(answered)[b"content-type"] == b"application/octet-stream"
    assert dict(answered)[b"content-length"] == b"1"


def test_cookies_of_the_apis_host_are_not_for_programs():
    scope: dict[str, Any] = {
        "headers": [(b"cookie", b"__Host-oauth_state=a; oauth_state=b; wrenn_x=c; own=d")],
        "scheme": "https",
        "client": None,
    }
    token = Secret("t")
    assert (b"cookie", b"own=d") in request_headers(scope, host="", access_token=token)
    assert b"cookie" not in dict(request_headers(scope, host="", access_token=token, with_cookies=False))
