"""The SDKs of e2b over HTTP/2: the platform behind Caddy and behind HAProxy, configured as in `deploy`.

Needs Debian's Caddy and HAProxy.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from tests.e2b.conftest import E2bPlatform
from tests.e2b.python_sdks import PythonSdk, Scenario
from tests.e2b.scenarios import commands, files
from tests.fleet.kit import running_haproxy, write_certificate
from tests.integration.test_caddy import running_caddy
from wrenn.testing.server import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DEADLINE_S = 15.0


def _environment(platform: E2bPlatform, port: int, ca_file: Path) -> dict[str, str]:
    """The variables by which an SDK finds the platform behind a proxy at this port."""
    url = f"https://localhost:{port}"
    return {
        "E2B_API_URL": f"{url}/e2b",
        "E2B_SANDBOX_URL": url,
        "E2B_API_KEY": platform.key.reveal(),
        "SSL_CERT_FILE": str(ca_file),
    }


@pytest.fixture(scope="module")
def files_of_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate with its key, and that of its CA; the SDK reads the latter once in a process."""
    return write_certificate(tmp_path_factory.mktemp("tls"), ["localhost"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caddy(
    platform: E2bPlatform, files_of_tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """The environment of an SDK that finds the platform behind Caddy."""
    folder = tmp_path_factory.mktemp("caddy")
    certificate, ca_file = files_of_tls
    port = free_port()
    replica = str(httpx2.URL(platform.own.url).netloc, "ascii")
    async with running_caddy(folder, port, certificate, [replica]):
        yield _environment(platform, port, ca_file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def haproxy(
    platform: E2bPlatform, files_of_tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """The environment of an SDK that finds the platform behind HAProxy."""
    folder = tmp_path_factory.mktemp("haproxy")
    certificate, ca_file = files_of_tls
    port = free_port()
    replica = str(httpx2.URL(platform.own.url).netloc, "ascii")
    async with running_haproxy(folder, f"127.0.0.1:{port}", certificate, [replica, replica]):
        async with asyncio.timeout(_DEADLINE_S):
            while not await asyncio.to_thread(_speaks_http_2, port, ca_file):
                await asyncio.sleep(0.05)
        yield _environment(platform, port, ca_file)


def _speaks_http_2(port: int, ca_file: Path) -> bool:
    tls = ssl.create_default_context(cafile=ca_file)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.selected_alpn_protocol() == "h2"
    except ConnectionError:
        return False


async def _run(sdk: PythonSdk, scenario: Scenario, environment: Mapping[str, str]) -> None:
    port = httpx2.URL(environment["E2B_SANDBOX_URL"]).port
    assert port is not None
    assert _speaks_http_2(port, Path(environment["SSL_CERT_FILE"]))
    await sdk.run(scenario, environment)


@pytest.mark.parametrize(
    "scenario",
    [
        commands.foreground_commands,
        commands.many_commands_at_once,
        commands.a_sandbox_that_is_killed_in_the_middle_of_a_command,
        files.large_files,
        files.signed_urls,
        files.events_that_are_streamed,
    ],
    ids=lambda each: each.__name__,
)
async def test_behind_caddy(sdk: PythonSdk, caddy: dict[str, str], scenario: Scenario) -> None:
    await _run(sdk, scenario, caddy)


@pytest.mark.parametrize(
    "scenario",
    [
        commands.many_commands_at_once,
        commands.a_sandbox_that_is_killed_in_the_middle_of_a_command,
    ],
    ids=lambda each: each.__name__,
)
async def test_behind_haproxy(sdk: PythonSdk, haproxy: dict[str, str], scenario: Scenario) -> None:
    await _run(sdk, scenario, haproxy)
