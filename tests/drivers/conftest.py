"""Drivers by name: `simulated` everywhere, `qemu` where there are root and images. One host of each for the whole run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.drivers import results
from tests.drivers.adapter import DriverAdapter, local_adapter
from tests.installations import remove_installation
from wrenn.agent.parts import VmHost
from wrenn.agent.settings import Settings
from wrenn.storage.layers import new_layer_id
from wrenn.testing.simulated_agent import ProcessHost, agent_environment
from wrenn.vm import DiskRef, ImageRef

_QEMU = pytest.param("qemu", marks=[pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(240)])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record which driver passes which test."""
    del call
    report = yield
    results.record(item, report)
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["simulated", _QEMU])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[DriverAdapter]:
    """One driver with its base."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-drv-"))
    images = os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn")
    settings = Settings.from_environment(
        {**agent_environment(folder), "WRENN_IMAGES_DIR": images, "WRENN_READY_SLOTS": "1"}
    )
    kind = VmHost() if request.param == "qemu" else ProcessHost()
    try:
        async with local_adapter(request.param, kind, settings) as adapter:
            yield adapter
    finally:
        if request.param == "qemu":
            await remove_installation(folder)
        shutil.rmtree(folder)


@pytest_asyncio.fixture(loop_scope="session")
async def driver(host: DriverAdapter, request: pytest.FixtureRequest) -> AsyncIterator[DriverAdapter]:
    """The driver; afterwards no machine, layer or snapshot of the test is left."""
    for marker in request.node.iter_markers("needs"):
        for capability in marker.args:
            if not getattr(host.capabilities, capability):
                pytest.skip(f"capability {capability} of drivers: {host.name} has it not")
    yield host
    await host.clean_up()


@pytest.fixture
def new_name() -> Callable[[], str]:
    """Names for machines."""
    numbers: Iterator[int] = iter(range(1000))
    return lambda: f"m{next(numbers)}-{os.getpid()}"


@pytest_asyncio.fixture(loop_scope="session")
async def started(driver: DriverAdapter) -> tuple[str, str]:
    """A machine of the base: its name, and the layer that it writes."""
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef((), driver.base))
    await driver.restore("first", DiskRef((layer,), driver.base), ImageRef(driver.base))
    return "first", layer
