"""A plain client of the guest agent: `http.client` and Connect frames, so that tests see the bytes."""

from __future__ import annotations

import base64
import http.client
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

BUILT = Path(__file__).parents[2] / "rust/target/x86_64-unknown-linux-gnu/release/envd"
DEADLINE_S = 30.0
END_FLAG = 0x02

Json = dict[str, Any]


def binary() -> Path:
    """The program under test."""
    path = Path(os.environ.get("WRENN_ENVD", str(BUILT)))
    if not path.exists():
        pytest.skip(f"{path} is not built: run `cargo build --release` in rust/")
    return path


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def pack(message: Json, *, flags: int = 0) -> bytes:
    """One frame."""
    contents = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(contents)) + contents


def basic(user: str) -> dict[str, str]:
    """The header that names a user."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode()}


@dataclass
class Outcome:
    """What a process said, and how its stream ended."""

    pid: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    pty: bytes = b""
    end: Json | None = None
    error: Json | None = None
    events: list[str] = field(default_factory=list[str])

    def take(self, event: Json) -> None:
        """Adds one event."""
        (kind,) = event
        self.events.append(kind)
        if kind == "start":
            self.pid = event["start"]["pid"]
        elif kind == "data":
            data = event["data"]
            self.stdout += base64.b64decode(data.get("stdout", ""))
            self.stderr += base64.b64decode(data.get("stderr", ""))
            self.pty += base64.b64decode(data.get("pty", ""))
        elif kind == "end":
            self.end = event["end"]


class Stream:
    """A server stream that is being read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        assert self._response.status == 200, self._response.read()

    def frames(self) -> Iterator[tuple[int, Json]]:
        """Frame after frame, the last one has the end flag."""
        while head := self._response.read(5):
            flags, length = struct.unpack(">BI", head)
            yield flags, json.loads(self._response.read(length))
            if flags & END_FLAG:
                return

    def next(self) -> Json:
        """The next message."""
        _, message = next(self.frames())
        return message

    def finish(self, outcome: Outcome | None = None) -> Outcome:
        """Reads process events to the end."""
        outcome = outcome or Outcome()
        for flags, message in self.frames():
            if flags & END_FLAG:
                outcome.error = message.get("error")
            else:
                outcome.take(message["event"])
        self.close()
        return outcome

    def close(self) -> None:
        """Goes away, like a client that has lost interest."""
        self._response.close()
        self._connection.close()


@dataclass
class Envd:
    """A running guest agent."""

    host: str
    port: int
    process: subprocess.Popen[str]
    token: str | None = None

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One plain request on its own connection."""
        connection = self._connect()
        url = path + ("?" + urlencode(query) if query else "")
        own = {"X-Access-Token": self.token} if self.token else {}
        connection.request(method, url, body=body, headers=own | (headers or {}))
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def call(self, method: str, message: Json | None = None, headers: dict[str, str] | None = None) -> Answer:
        """A unary call in JSON."""
        body = json.dumps(message or {}).encode()
        return self.request(
            "POST", "/" + method, body=body, headers={"Content-Type": "application/json"} | (headers or {})
        )

    def stream(self, method: str, message: Json, headers: dict[str, str] | None = None) -> Stream:
        """A server stream in JSON."""
        connection = self._connect()
        own = {"X-Access-Token": self.token} if self.token else {}
        kind = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
        connection.request("POST", "/" + method, body=pack(message), headers=kind | own | (headers or {}))
        return Stream(connection)

    def start(
        self,
        cmd: str,
        *args: str,
        headers: dict[str, str] | None = None,
        more: Json | None = None,
        **config: Any,
    ) -> Stream:
        """Starts a process; `more` are fields beside `process`."""
        message = {"process": {"cmd": cmd, "args": list(args), **config}, "stdin": False} | (more or {})
        return self.stream("process.Process/Start", message, headers)

    def run(self, cmd: str, *args: str, **options: Any) -> Outcome:
        """Starts a process and reads to its end."""
        return self.start(cmd, *args, **options).finish()

    def shell(self, script: str, **options: Any) -> Outcome:
        """Runs a script in a shell."""
        return self.run("/bin/sh", "-c", script, **options)

    def write(self, path: Path | str, body: bytes, **headers: str) -> Answer:
        """Uploads one file as bytes."""
        kind = {"Content-Type": "application/octet-stream"} | headers
        return self.request("POST", "/files", query={"path": str(path)}, body=body, headers=kind)

    def read(self, path: Path | str, headers: dict[str, str] | None = None) -> Answer:
        """Downloads one file."""
        return self.request("GET", "/files", query={"path": str(path)}, headers=headers)

    def pids(self) -> list[int]:
        """The processes in the list."""
        return [p["pid"] for p in self.call("process.Process/List").json().get("processes", [])]
