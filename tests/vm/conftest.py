"""One data folder for the agents of all tests here, so that each template and shape is booted once, and one platform for the others."""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.container_images import REGISTRY_NAMESPACE, Layer, push, registry_beside_host
from tests.installations import remove_installation
from tests.vm.kit import DEFAULT_SHAPE
from tests.vm.platform import Platform, running_platform
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.ids import SnapshotId
from wrenn.storage.images import load_images
from wrenn.testing.server import free_port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a hypervisor; on a machine without root or images it says so and is skipped.

    The tests that share a platform are the last, so that it does not run while others do.
    """
    reason = ""
    if os.geteuid() != 0:
        reason = "virtual machines need root"
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(240))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
    places = [place for place, item in enumerate(items) if here in item.path.parents]
    in_order = sorted((items[place] for place in places), key=_shares_platform)
    for place, item in zip(places, in_order, strict=True):
        items[place] = item


def _shares_platform(item: pytest.Item) -> bool:
    return "platform_of_run" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure what the platform's programs are doing, and what they logged."""
    report = yield
    platform = getattr(item, "funcargs", {}).get("platform")
    if report.failed and isinstance(platform, Platform):
        for name, text in platform.describe().items():
            report.sections.append((f"{name} at {call.when}", text))
    return report


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """Where kernel, initramfs and templates are; a run without them fails with how to build them."""
    folder = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    load_images(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """A data folder of this run, for agents in this process and for platforms of one test."""
    with _data_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def platform_dir() -> Iterator[Path]:
    """The data folder of `platform_of_run`: an agent of another test may not share it."""
    with _data_folder() as folder:
        yield folder


@contextmanager
def _data_folder() -> Generator[Path]:
    """A new data folder. Short, because control sockets live below it (limit of AF_UNIX: 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-test-"))
    yield folder
    asyncio.run(remove_installation(folder))
    shutil.rmtree(folder)


@pytest.fixture
def settings(data_dir: Path, images_dir: Path) -> Settings:
    """An agent on the run's data folder."""
    return Settings.from_environment(
        {
            "WRENN_DATA_DIR": str(data_dir),
            "WRENN_IMAGES_DIR": str(images_dir),
            "WRENN_AGENT_LISTEN": f"127.0.0.1:{free_port()}",
            "WRENN_READY_SLOTS": "2",
        }
    )


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def platform_of_run(platform_dir: Path, images_dir: Path) -> AsyncIterator[Platform]:
    """A whole platform in processes of its own. It ends with the tests of this folder."""
    async with running_platform(platform_dir, images_dir, armable=True) as platform:
        yield platform


@pytest.fixture
async def platform(platform_of_run: Platform) -> AsyncIterator[Platform]:
    """The run's platform; what the test killed is started again afterwards, and its sandboxes are removed."""
    yield platform_of_run
    await platform_of_run.restore()


@pytest.fixture
async def agent(settings: Settings) -> AsyncIterator[Agent]:
    """A running agent, its base made; afterwards its sandboxes are removed."""
    async with running_agent(settings) as agent:
        await agent.bases.get("minimal", DEFAULT_SHAPE)
        yield agent
        for record, _ in agent.sandboxes.list():
            await agent.sandboxes.remove(record.spec.sandbox_id)
        for snapshot in agent.sandboxes.list_snapshots():
            agent.sandboxes.remove_snapshot(SnapshotId.parse(snapshot.manifest.snapshot_id))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a registry in a namespace beside the host, with one image: busybox and nothing else."""
    async with registry_beside_host(tmp_path / "registry") as address:
        files = Layer().folder("bin").add("bin/busybox", Path("/usr/bin/busybox").read_bytes(), mode=0o755)
        for name in ("sh", "cat", "id"):
            files.add(f"bin/{name}", kind=tarfile.SYMTYPE, target="busybox")
        await push(REGISTRY_NAMESPACE, tmp_path, "tiny:1", [files.done()], {"Cmd": ["/bin/sh"]})
        yield address
