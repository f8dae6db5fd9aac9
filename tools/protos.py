"""Generate the Python messages and RPC stubs in `src/wrenn/protocol/` from `proto/`. `--check` only compares."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# proto file -> (package folder under src/wrenn/protocol, also the RPC stubs?)
TARGETS: dict[str, tuple[str, bool]] = {
    "wrenn/host/v1/host.proto": ("host", True),
    "process/process.proto": ("guest", False),
    "filesystem/filesystem.proto": ("guest", False),
}


def generate(destination: Path) -> list[Path]:
    """Write the generated modules below `destination` and return their paths, relative to it."""
    written: list[Path] = []
    for proto, (package, stubs) in TARGETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            outputs = [f"--py_out={scratch}"] + ([f"--connectrpc_out={scratch}"] if stubs else [])
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "grpc_tools.protoc",
                    f"-I{ROOT / 'proto'}",
                    *outputs,
                    str(ROOT / "proto" / proto),
                ],
                check=True,
                env={
                    **os.environ,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },  # the two plugins
            )
            for module in sorted((Path(scratch) / proto).parent.glob("*_[pc]*.py")):
                target = Path(package) / module.name
                (destination / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(module, destination / target)
                written.append(target)
    return written


def main() -> int:
    """Generate in place, or compare."""
    place = ROOT / "src/wrenn/protocol"
    if "--check" not in sys.argv:
        generate(place)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        stale = [
            m
            for m in generate(Path(scratch))
            if not (place / m).exists() or not filecmp.cmp(Path(scratch) / m, place / m, shallow=False)
        ]
    for module in stale:
        print(f"out of date: src/wrenn/protocol/{module} (run `make protos`)")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
