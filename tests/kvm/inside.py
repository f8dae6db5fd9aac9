"""The server in the host machine: has drivers, and runs commands. Started by `start.sh`; serves one call for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pickle
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.drivers.adapter import LocalAdapter, local_adapter
from tests.kvm import agent_tests, disk_runs, firecracker_runs
from tests.kvm.wire import PORT, Call, Reply, receive, send
from wrenn.agent.parts import VmHost
from wrenn.agent.settings import Settings
from wrenn.storage.images import load_images
from wrenn.vm.qemu import choose_accelerator

IMAGES = "/data/images"
_PROBE_TIMEOUT_S = 120.0
"""KVM runs in an emulated machine, which others may slow down."""


def _environment(name: str, environment: dict[str, str]) -> dict[str, str]:
    """Settings of an installation of this name."""
    return {
        "WRENN_DATA_DIR": f"/data/{name}",
        "WRENN_IMAGES_DIR": IMAGES,
        # Python is slow here, and KVM runs in an emulated machine.
        "WRENN_KVM_PROBE_S": f"{_PROBE_TIMEOUT_S}",
        "WRENN_START_LIMIT_S": "200",
        "WRENN_READY_SLOTS": "2",
        "WRENN_SANDBOX_FLOWS": "100",
        "WRENN_SAMPLE_INTERVAL_S": "0",
        **environment,
    }


class Server:
    """What the tests may call."""

    def __init__(self) -> None:
        self._adapters: dict[str, LocalAdapter] = {}
        self._open = AsyncExitStack()

    async def ping(self) -> None:
        """Answer."""

    async def set_clock(self, now: float) -> None:
        """A machine that was saved and restored has the time of then."""
        time.clock_settime(time.CLOCK_REALTIME, now)

    async def unpack(self, archive: bytes, folder: str) -> None:
        """Unpack a tar archive."""
        Path(folder).mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            await asyncio.to_thread(opened.extractall, folder)

    async def shell(self, script: str) -> tuple[int, str]:
        """Run a script; returns its exit code and its output with its errors."""
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        except BaseException:
            process.kill()
            raise
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    async def open(self, name: str, environment: dict[str, str]) -> dict[str, Any]:
        """Make a driver with a base, unless it was made before; returns what it says about itself."""
        if name not in self._adapters:
            settings = Settings.from_environment(_environment(name, environment))
            adapter = await self._open.enter_async_context(local_adapter(name, VmHost(), settings))
            print(f"the driver {name} is ready: {adapter.parts.driver.vmm}", flush=True)
            self._adapters[name] = adapter
        adapter = self._adapters[name]
        driver = adapter.parts.driver
        return {
            "capabilities": adapter.capabilities,
            "base": adapter.base,
            "vmm": driver.vmm,
            "accelerator": driver.accelerator,
            "machine": driver.machine,
        }

    async def why_no_kvm(self, cpu_model: str) -> str:
        """Try this CPU model; returns why KVM is not used with it, or nothing."""
        with tempfile.TemporaryDirectory() as folder:
            choice = await choose_accelerator(
                kernel=load_images(Path(IMAGES)).kernel,
                memory_of_choice=Path(folder, "choice"),
                probe_timeout_s=_PROBE_TIMEOUT_S,
                cpu_model=cpu_model,
            )
        return choice.reason

    async def adapter(self, name: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a driver's adapter."""
        return await getattr(self._adapters[name], method)(*args, **kwargs)

    async def prepare_agent(self, driver: str, environment: dict[str, str]) -> None:
        """Make a data folder for the agents of `run_agent_test` with the base of an open driver, unless it was made before."""
        agent = f"agent-{driver}"
        if not Path("/data", agent).exists():
            await agent_tests.prepare(Path("/data", driver), _environment(agent, environment))

    async def run_agent_test(self, module: str, name: str, driver: str, environment: dict[str, str]) -> None:
        """Run a test of tests/vm with an agent that `prepare_agent` has prepared."""
        await agent_tests.run_test(module, name, _environment(f"agent-{driver}", environment))

    async def run_fault_program(
        self, kills: tuple[str, ...], driver: str, environment: dict[str, str], limit_s: float
    ) -> tuple[int, str]:
        """Run `fault_program.py` with the settings of an agent that `prepare_agent` has prepared."""
        settings = " ".join(
            f"{name}='{value}'" for name, value in _environment(f"agent-{driver}", environment).items()
        )
        program = f"python3 -m tests.kvm.fault_program {' '.join(kills)}"
        return await self.shell(f"cd /sources && {settings} exec timeout {limit_s:.0f} {program}")

    async def run_firecracker(self, initramfs: bytes) -> dict[str, float]:
        """Boot, save and restore a guest of this initramfs with Firecracker; returns how long it took."""
        return await firecracker_runs.a_jailed_guest_is_saved_and_restored(initramfs)

    async def run_disk_test(self, name: str) -> None:
        """Run a test of disks on device-mapper."""
        await disk_runs.TESTS[name]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: a caller that goes away cancels its call."""
        with contextlib.suppress(EOFError, ConnectionError):
            call: Call = await receive(reader)
            working = asyncio.ensure_future(
                self._reply(getattr(self, call.method)(*call.args, **call.kwargs or {}))
            )
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not working.done():
                working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await send(writer, await working)
        writer.close()

    async def _reply(self, working: Coroutine[Any, Any, Any]) -> Reply:
        try:
            return Reply(await working)
        except Exception as error:  # noqa: BLE001 - it is raised again where the call came from
            traceback.print_exc()
            error.add_note("in the host machine:\n" + "".join(traceback.format_exception(error)))
            with contextlib.suppress(Exception):
                pickle.loads(pickle.dumps(error))
                return Reply(error=error)
            return Reply(error=RuntimeError("".join(traceback.format_exception(error))))


async def main() -> None:
    """Serve until the machine ends."""
    server = await asyncio.start_server(Server().serve, "0.0.0.0", PORT)
    print("the server in the host machine listens", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    sys.exit(asyncio.run(main()))
