"""Set up a checkout: Debian packages, Python, Rust and the dashboard, all from lock files. Called by `make setup`.

Standard library only: it runs before anything is installed. Run again, it looks at stamps and takes a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv"
STAMP: Final = VENV / ".setup-stamp"
LOG: Final = ROOT / "build" / "setup.log"
LOCK: Final = ROOT / "requirements.lock"
DASHBOARD: Final = ROOT / "dashboard"
DASHBOARD_STAMP: Final = ROOT / "build" / "dashboard-stamp"
DASHBOARD_BUILT: Final = ROOT / "src/wrenn/control/dashboard/built/index.html"

# What the platform and its build call, by Debian package.
PACKAGES: Final[tuple[str, ...]] = (
    "ca-certificates", "e2fsprogs", "gcc", "iproute2", "kmod", "libc6-dev", "lz4", "mmdebstrap", "nftables", "procps",
    "qemu-system-x86", "qemu-utils", "skopeo", "umoci", "util-linux", "zstd",
)  # fmt: skip
# What only tests call, with `--tests`: 440 MB that a user of the platform does not need. Where systemd runs, Debian starts Caddy as
# a service that shows a page at port 80, which no test needs: `systemctl disable --now caddy`.
TEST_PACKAGES: Final[tuple[str, ...]] = (
    "busybox-static", "caddy", "chromium", "docker-registry", "haproxy", "musl-tools", "python3-venv",
)  # fmt: skip
OLDEST_PYTHON: Final = (3, 11)
# Vite needs it: Debian 12 and Ubuntu 24.04 have 18. Without it everything works but the dashboard.
OLDEST_NODE: Final = (20, 19)
NEWS_INTERVAL_S: Final = 10.0
"""How often a step says that it still runs: people give up on silence."""


def main() -> int:
    """Run all steps that are not done yet."""
    started = time.monotonic()
    if sys.version_info < OLDEST_PYTHON:
        fail(
            f"Python ≥ 3.11 is needed, this is {sys.version.split()[0]} ({sys.executable}). Put a newer python3 first in PATH."
        )
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_bytes(b"")
    install_debian_packages()
    install_python()
    build_rust()
    build_dashboard()
    print(f"setup: ready ({time.monotonic() - started:.1f} s)", flush=True)
    return 0


def install_debian_packages() -> None:
    """Install what is missing with apt; without root say the command."""
    wanted: list[str] = [*PACKAGES, *(TEST_PACKAGES if "--tests" in sys.argv else ())]
    if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu split it off their Python
        wanted.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
    if shutil.which("dpkg-query") is None:
        fail(
            "This is not Debian or Ubuntu (there is no dpkg-query): wrenn runs on Debian 12 and Ubuntu 24.04."
        )
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    installed = {line.split()[0] for line in query.stdout.splitlines() if line.endswith(" installed")}
    missing = [package for package in wanted if package not in installed]
    if not missing:
        return
    if os.geteuid() != 0:
        fail(
            f"Debian packages are missing. Run this, then try again:\n  sudo apt-get install -y {' '.join(missing)}"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("reading the package lists", ["apt-get", "update"], environment=environment, may_fail=True)
    run(
        f"installing {len(missing)} Debian packages ({', '.join(missing)})",
        ["apt-get", "install", "-y", "--no-install-recommends", *missing],
        environment=environment,
    )


def install_python() -> None:
    """Make `.venv` hold exactly the packages of `requirements.lock`, and this project."""
    state = hashlib.sha256()
    for part in (
        LOCK.read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        str(ROOT).encode(),
        sys.version.encode(),
    ):
        state.update(hashlib.sha256(part).digest())
    if STAMP.is_file() and STAMP.read_text() == state.hexdigest():
        return
    python = VENV / "bin/python"
    uv = VENV / "bin/uv"
    if version_of(python) != sys.version:
        run("creating .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    if not uv.exists():
        if (
            subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode
            != 0
        ):
            run("adding pip to .venv", [str(python), "-m", "ensurepip"])
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
            wanted.write(locked("uv"))
            wanted.flush()
            run("installing uv", [str(python), "-m", "pip", "install", "--require-hashes", "-r", wanted.name])
    target = ["--python", str(python)]
    run("installing Python packages", [str(uv), "pip", "sync", *target, "--require-hashes", str(LOCK)])
    run(
        "installing wrenn itself",
        [str(uv), "pip", "install", *target, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
    )
    STAMP.write_text(state.hexdigest())


def version_of(python: Path) -> str | None:
    """`sys.version` of another interpreter, or None when it does not run."""
    if not python.exists():
        return None
    result = subprocess.run(
        [python, "-c", "import sys; sys.stdout.write(sys.version)"],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout if result.returncode == 0 else None


def locked(package: str) -> str:
    """The lines of `requirements.lock` for one package: version and hashes."""
    lines = LOCK.read_text().splitlines(keepends=True)
    first = next((n for n, line in enumerate(lines) if line.startswith(f"{package}==")), None)
    if first is None:
        fail(f"requirements.lock has no {package}: run `make lock` on a machine that has uv.")
    last = next((n for n in range(first, len(lines)) if not lines[n].rstrip().endswith("\\")), len(lines) - 1)
    return "".join(lines[first : last + 1])


def build_rust() -> None:
    """Build the programs in `rust/`; cargo itself knows what is up to date."""
    if shutil.which("cargo") is None:
        fail("cargo is missing. Install Rust (https://rustup.rs), then try again.")
    run(
        "building the guest agent and the page-fault server",
        ["cargo", "build", "--release", "--locked"],
        directory=ROOT / "rust",
    )


def build_dashboard() -> None:
    """Build the pages that the control plane serves, if a file that they are made from has changed."""
    node = version_of_node()
    if node is None or node < OLDEST_NODE or shutil.which("npm") is None:
        oldest = ".".join(map(str, OLDEST_NODE))
        print(f"setup: the dashboard is not built: it needs Node.js ≥ {oldest} with npm in PATH.", flush=True)
        return
    state = hashlib.sha256(repr(node).encode())
    for path in [*dashboard_sources(), ROOT / "openapi/wrenn.json"]:
        state.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    if (
        DASHBOARD_BUILT.is_file()
        and DASHBOARD_STAMP.is_file()
        and DASHBOARD_STAMP.read_text() == state.hexdigest()
    ):
        return
    npm = ["npm", "--no-audit", "--no-fund"]
    run("installing the dashboard's packages", [*npm, "ci"], directory=DASHBOARD)
    run("building the dashboard", [*npm, "run", "build"], directory=DASHBOARD)
    DASHBOARD_STAMP.write_text(state.hexdigest())


def dashboard_sources() -> list[Path]:
    """All files of `dashboard/` but those that npm and the build write."""
    written = {"node_modules", ".svelte-kit", "schema.d.ts"}
    return [
        path
        for path in sorted(DASHBOARD.rglob("*"))
        if path.is_file() and not written.intersection(path.relative_to(DASHBOARD).parts)
    ]


def version_of_node() -> tuple[int, ...] | None:
    """Major and minor number, or None when there is no Node.js."""
    if shutil.which("node") is None:
        return None
    result = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    numbers = result.stdout.strip().removeprefix("v").split(".")[:2]
    return tuple(map(int, numbers)) if all(number.isdigit() for number in numbers) else None


def run(
    step: str,
    argv: list[str],
    *,
    directory: Path = ROOT,
    environment: dict[str, str] | None = None,
    may_fail: bool = False,
) -> None:
    """Run one command with its output in the log; say what happens and how long it takes, and stop if it fails."""
    started = news = time.monotonic()
    with LOG.open("ab") as log:
        log.write(f"\n== {step}: {' '.join(argv)}\n".encode())
        log.flush()
        beginning = log.tell()
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        spoken = False
        while True:
            try:
                code = process.wait(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                if not spoken:
                    print(f"setup: {step} …", flush=True)
                    spoken = True
                elif time.monotonic() - news >= NEWS_INTERVAL_S:
                    news = time.monotonic()
                    print(f"setup: {step} … {news - started:.0f} s", flush=True)
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise SystemExit(130) from None
    elapsed = time.monotonic() - started
    if code == 0:
        if spoken:
            print(f"setup: {step}: done ({elapsed:.1f} s)", flush=True)
    elif not may_fail:
        output = LOG.read_bytes()[beginning:].decode(errors="replace").splitlines()
        print("\n".join(f"  | {line}" for line in output[-25:]), file=sys.stderr)
        fail(
            f"{step} failed (exit code {code}). All output is in {LOG.relative_to(ROOT)}; the command was:\n  {' '.join(argv)}"
        )


def fail(message: str) -> NoReturn:
    """Say what is wrong and stop."""
    print(f"setup: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main())
