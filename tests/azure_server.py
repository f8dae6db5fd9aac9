"""A real server of Azure's Blob Storage for tests: Azurite, by npm, in memory."""

from __future__ import annotations

import base64
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx2
import pytest

from wrenn.testing.server import free_port

_VERSION: Final = "3.37.0"
_FOLDER: Final = Path(__file__).parent.parent / "build" / f"azurite-{_VERSION}"
_ACCOUNT: Final = "devstoreaccount1"
# The one of every such server, which its documentation names.
_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_CONTAINER: Final = "images"
_INSTALL_TIMEOUT_S: Final = 600.0
_START_TIMEOUT_S: Final = 30.0


@contextmanager
def azure_server() -> Generator[dict[str, str]]:
    """Run a server with an empty container; yields the settings of a control plane that uses it."""
    program = _FOLDER / "node_modules/.bin/azurite-blob"
    if not program.exists():
        if shutil.which("npm") is None:
            pytest.skip("No test runs against Azure's Blob Storage: npm is missing, which installs Azurite.")
        _FOLDER.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--no-audit", "--no-fund", f"azurite@{_VERSION}"]
        subprocess.run(install, cwd=_FOLDER, check=True, capture_output=True, timeout=_INSTALL_TIMEOUT_S)
    port = free_port()
    process = subprocess.Popen(
        [
            str(program), "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck",
            "--blobHost", "127.0.0.1", "--blobPort", str(port),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_until_it_listens(port)
        endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
        _create_container(endpoint)
        yield {
            "WRENN_STORE": f"az://{_CONTAINER}/prefix",
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_it_listens(port: int) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("Azurite did not start")


def _create_container(endpoint: str) -> None:
    """Create the container, which the library for stores cannot."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    signed = [f"{name}:{value}" for name, value in headers.items()]
    text = "\n".join(
        ["PUT", *[""] * 11, *signed, f"/{_ACCOUNT}/{_ACCOUNT}/{_CONTAINER}", "restype:container"]
    )
    signature = base64.b64encode(hmac.digest(base64.b64decode(_KEY), text.encode(), "sha256")).decode()
    answer = httpx2.put(
        f"{endpoint}/{_CONTAINER}?restype=container",
        headers={**headers, "Authorization": f"SharedKey {_ACCOUNT}:{signature}"},
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
