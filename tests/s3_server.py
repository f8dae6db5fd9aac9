"""A real S3 server for tests: versitygw, built from its Go module, over a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.go_programs import GoProgram

PROGRAM: Final = GoProgram("github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
_START_TIMEOUT_S: Final = 10.0
_MISSING: Final = (
    "No test runs against S3: Go (>= 1.21) is missing, with which the S3 server versitygw is built."
)
BUCKET: Final = "images"


def program() -> Path:
    """The server; built if this checkout has none. Without Go the test is skipped, except in CI."""
    if not PROGRAM.build():
        if os.environ.get("CI"):
            pytest.fail(_MISSING)
        warnings.warn(pytest.PytestWarning(_MISSING), stacklevel=2)
        pytest.skip(_MISSING)
    return PROGRAM.path


@dataclass
class S3Server:
    """A server that may be stopped and started again; its objects stay."""

    folder: Path
    address: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    secret: str = field(default="secret-of-the-tests", repr=False)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client finds it by."""
        return {
            "WRENN_STORE": f"s3://{BUCKET}/wrenn",
            "AWS_ENDPOINT_URL": f"http://{self.address}:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert self.process is None
        environment = {"ROOT_ACCESS_KEY": "tests", "ROOT_SECRET_KEY": self.secret, "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            [
                str(program()), "--port", f"{self.address}:{self.port}", "--quiet",
                "posix", "--sidecar", str(self.folder / "meta"), str(self.folder / "data"),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < end, "the S3 server does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def object_path(self, key: str) -> Path:
        """The file of an object."""
        return self.folder / "data" / BUCKET / "wrenn" / key


@contextmanager
def s3_server(folder: Path, address: str = "127.0.0.1") -> Generator[S3Server]:
    """An S3 server with one empty bucket, on a free port of this address."""
    (folder / "data" / BUCKET).mkdir(parents=True)
    (folder / "meta").mkdir()
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    server = S3Server(folder, address, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


if __name__ == "__main__":
    # `make test-tools`: the first build takes a minute or two, which no test should wait for.
    if not PROGRAM.build():
        print(_MISSING)
