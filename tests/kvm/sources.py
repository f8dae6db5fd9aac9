"""The third disk of the host machine: an archive with the sources that run in it."""

from __future__ import annotations

import importlib.metadata
import io
import tarfile
from pathlib import Path
from typing import Final

from tests.kvm.cache import built, digest_of
from wrenn.vm.firecracker.pager import find_pager

_CHECKOUT: Final = Path(__file__).resolve().parents[2]
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
    "kvm/__init__.py", "kvm/agent_tests.py", "kvm/disk_runs.py", "kvm/firecracker_agent_runs.py", "kvm/firecracker_runs.py", "kvm/inside.py", "kvm/start.sh", "kvm/wire.py",
    "vm/__init__.py", "vm/kit.py", "vm/test_disk_only.py", "vm/test_pause.py", "vm/test_sandboxes.py", "vm/test_snapshots.py",
)  # fmt: skip


async def sources_archive(cache: Path) -> Path:
    """Return the archive; built if there is none with this content. The lock of `cache` must be held."""
    content = _archive()

    async def write(into: Path) -> None:
        (into / "sources.tar").write_bytes(content)

    return await built(cache, "sources", digest_of([content]), write) / "sources.tar"


def _archive() -> bytes:
    # Programs ask for their own version.
    version = importlib.metadata.version("wrenn")
    contents = {
        f"src/wrenn-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: wrenn\nVersion: {version}\n".encode()
    }
    paths = [
        _CHECKOUT / "src/wrenn/__init__.py",
        *(_CHECKOUT / "tests" / name for name in _TESTS),
        *(path for name in _PACKAGES for path in (_CHECKOUT / "src/wrenn" / name).rglob("*.py")),
    ]
    if (pager := find_pager()) is not None:
        paths.append(pager)
    contents |= {str(path.relative_to(_CHECKOUT)): path.read_bytes() for path in paths}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        # Names and content alone: the same sources give the same bytes.
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
