"""The platform that the SDKs of e2b are used with: a real control plane, and a real agent over the simulated driver.

There is one platform a module. A scenario uses one of the SDKs as its users do, unmodified, and knows the platform by the
environment variables of e2b only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2b.node_sdk import NodeSdk
from tests.e2b.node_sdk import install as install_node
from tests.e2b.python_sdks import RELEASES, PythonSdk, install
from tests.integration import conftest as integration
from wrenn.base.ids import KeyId
from wrenn.base.secrets import Secret
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import KeyFormat, insert_key
from wrenn.control.identity import store as teams

data_dir = integration.data_dir
pki = integration.pki
template_url = integration.template_url
lease_of_module_s = integration.lease_of_module_s
platform_of_module = integration.platform_of_module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the simulated driver cannot do."""
    integration.skip_without_capability(items, Path(__file__).parent)


@dataclass
class E2bPlatform:
    """A live platform as users of e2b know it. `own` is the same as the tests of the platform's own API know it."""

    own: integration.Platform
    key: Secret

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which an SDK finds the platform."""
        return {
            "E2B_API_URL": f"{self.own.url}/e2b",
            "E2B_SANDBOX_URL": self.own.url,
            "E2B_API_KEY": self.key.reveal(),
        }


async def e2b_key(database_url: str, name: str) -> Secret:
    """A key of e2b's form, of a team of this name, which is made if there is none."""

    async def make(tx: Transaction) -> Secret:
        user_id = await teams.ensure_user(tx, email=f"{name}@example.com", name=name, is_admin=False)
        team_id = await teams.ensure_default_team(tx, user_id, name=name)
        return await insert_key(
            tx, team_id=team_id, created_by=user_id, name=f"e2b {KeyId.new()}", key_format=KeyFormat.E2B
        )

    database = Database(database_url)
    try:
        return await database.transaction(make)
    finally:
        await database.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(platform_of_module: integration.Platform) -> E2bPlatform:
    url = str(platform_of_module.settings.database_url)
    return E2bPlatform(platform_of_module, await e2b_key(url, "ada"))


@pytest.fixture(scope="session", autouse=True)
def older_release() -> None:
    """The older release of the SDK, installed by the first test of a checkout."""
    install()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=RELEASES)
async def sdk(request: pytest.FixtureRequest, platform: E2bPlatform) -> AsyncIterator[PythonSdk]:
    """Each release of the Python SDK, as a process of its own."""
    started = PythonSdk(request.param)
    started.environment = platform.environment
    yield started
    await started.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(platform: E2bPlatform) -> AsyncIterator[NodeSdk]:
    """The Node SDK, as a process of its own."""
    install_node()
    started = NodeSdk()
    started.environment = platform.environment
    yield started
    await started.close()


@pytest.fixture(autouse=True)
def no_variables_of_e2b() -> Iterator[None]:
    """Nothing of the caller's own account with e2b is in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("E2B_API_KEY", "E2B_API_URL", "E2B_SANDBOX_URL", "E2B_DOMAIN", "E2B_DEBUG"):
            patch.delenv(name, raising=False)
        yield
