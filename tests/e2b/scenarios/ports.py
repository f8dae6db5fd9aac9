"""Ports of programs in a sandbox, from outside: public and private ones. Names of hosts are not resolved: requests go to the platform's address."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import urllib.error
import urllib.request

from e2b import Sandbox

TEMPLATE = "minimal"
_SERVER = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (self.headers["Host"] + "\\n" + self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def _serve(sandbox: Sandbox) -> tuple[int, int]:
    """Start a server in the sandbox, and return its port and its process."""
    sandbox.files.write("server.py", _SERVER)
    handle = sandbox.commands.run("python3 server.py", background=True, timeout=0)
    for stdout, _, _ in handle:
        if stdout:
            handle.disconnect()
            return int(stdout), handle.pid
    raise AssertionError("the server did not begin")


def _get(host: str, path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(
        os.environ["E2B_SANDBOX_URL"] + path, headers={"Host": host, **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def a_public_port() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=120)
    port, _ = _serve(sandbox)
    host = sandbox.get_host(port)
    assert host.startswith(f"{port}-{sandbox.sandbox_id}.")
    assert _get(host, "/a?b=c") == (200, f"{host}\n/a?b=c")
    sandbox.kill()
    status, text = _get(host)
    assert status == 502
    assert "The sandbox was not found" in text
    assert sandbox.sandbox_id in text


def a_port_without_a_program() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        port, pid = _serve(sandbox)
        assert sandbox.commands.kill(pid)
        status, text = _get(sandbox.get_host(port))
        assert status == 502, text
        assert "The sandbox is running but port is not open" in text


def private_ports() -> None:
    with (
        Sandbox.create(TEMPLATE, timeout=120, network={"allow_public_traffic": False}) as sandbox,
        Sandbox.create(TEMPLATE, timeout=120, network={"allow_public_traffic": False}) as other,
    ):
        port, _ = _serve(sandbox)
        host = sandbox.get_host(port)
        assert sandbox.traffic_access_token
        assert _get(host)[0] == 403
        assert _get(host, headers={"E2b-Traffic-Access-Token": "wrong"})[0] == 403
        assert _get(host, headers={"e2b-traffic-access-token": str(other.traffic_access_token)})[0] == 403
        right = {"e2b-traffic-access-token": str(sandbox.traffic_access_token)}
        assert _get(host, headers=right)[0] == 200
        # The guest agent has its own token.
        assert sandbox.commands.run("echo here").stdout == "here\n"


def a_host_of_the_owners_choice() -> None:
    with Sandbox.create(TEMPLATE, timeout=120, network={"mask_request_host": "localhost:${PORT}"}) as sandbox:
        port, _ = _serve(sandbox)
        assert _get(sandbox.get_host(port)) == (200, f"localhost:{port}\n/")


def variables_of_a_sandbox() -> None:
    with Sandbox.create(TEMPLATE, timeout=120, envs={"MINE": "1"}) as sandbox:
        told = sandbox.commands.run("echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID $MINE").stdout
        assert told == f"true {sandbox.sandbox_id} {TEMPLATE} 1\n"
