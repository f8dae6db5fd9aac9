"""The third disk of the host machine: an archive with the sources that run in it."""

from __future__ import annotations

import importlib.metadata
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.kvm.cache import built, digest_of
from wrenn.vm.firecracker.pager import find_pager

CHECKOUT: Final = Path(__file__).resolve().parents[2]
# What an agent imports. A change of anything else of the project needs no new saved state.
_PACKAGES: Final = (
    "agent",
    "base",
    "guest",
    "linux",
    "network",
    "protocol",
    "recipe",
    "relay",
    "storage",
    "telemetry",
    "vm",
)
_TESTS: Final = (
    "drivers/__init__.py", "drivers/adapter.py",
    "kvm/__init__.py", "kvm/agent_tests.py", "kvm/disk_runs.py", "kvm/fault_program.py", "kvm/firecracker_agent_runs.py", "kvm/firecracker_runs.py", "kvm/inside.py", "kvm/start.sh", "kvm/wire.py",
    "vm/__init__.py", "vm/kit.py", "vm/test_disk_only.py", "vm/test_pause.py", "vm/test_sandboxes.py", "vm/test_snapshots.py",
)  # fmt: skip


async def sources_archive(cache: Path) -> Path:
    """Return the archive; built if there is none with this content. The lock of `cache` must be held."""
    content = _archive()

    async def write(into: Path) -> None:
        (into / "sources.tar").write_bytes(content)

    return await built(cache, "sources", digest_of([content]), write) / "sources.tar"


def _archive() -> bytes:
    paths = [
        CHECKOUT / "src/wrenn/__init__.py",
        *(CHECKOUT / "tests" / name for name in _TESTS),
        *(path for name in _PACKAGES for path in (CHECKOUT / "src/wrenn" / name).rglob("*.py")),
    ]
    if (pager := find_pager()) is not None:
        paths.append(pager)
    return tar_of(
        metadata_of_wrenn() | {str(path.relative_to(CHECKOUT)): path.read_bytes() for path in paths}
    )


def metadata_of_wrenn() -> dict[str, bytes]:
    """What programs find that ask for their own version."""
    version = importlib.metadata.version("wrenn")
    name = f"src/wrenn-{version}.dist-info/METADATA"
    return {name: f"Metadata-Version: 2.1\nName: wrenn\nVersion: {version}\n".encode()}


def tar_of(contents: dict[str, bytes], times: Mapping[str, int] = MappingProxyType({})) -> bytes:
    """An archive of names and contents, and the times of those that have one: the same ones give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755
            member.mtime = times.get(name, 0)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
