"""The template `code-interpreter-v1` in a virtual machine, used by e2b's client as its users do. Skipped where it was not built."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from tests.vm.platform import Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")
slow = pytest.mark.timeout(600)
"""Of each test: what the module has gives way to the limit that `conftest.py` sets."""

TEMPLATE = "code-interpreter-v1"


def _created() -> Sandbox:
    """A sandbox. Under emulation it takes minutes to make the base with the kernels in it, longer than a request waits."""
    deadline = time.monotonic() + 480
    while True:
        try:
            return Sandbox.create(timeout=600, envs={"OF_SANDBOX": "here"}, request_timeout=300)
        except SandboxException as error:
            if "504" not in str(error) or time.monotonic() > deadline:
                raise


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(images_dir: Path, platform_of_run: Platform) -> AsyncIterator[Sandbox]:
    if not (images_dir / "templates" / TEMPLATE / "manifest.json").is_file():
        pytest.skip(f"the template is not built: sudo wrenn images build {TEMPLATE}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2B_API_URL", f"{platform_of_run.base_url}/e2b")
        patch.setenv("E2B_SANDBOX_URL", platform_of_run.base_url)
        patch.setenv("E2B_API_KEY", platform_of_run.key)
        made = await asyncio.to_thread(_created)
        yield made
        await asyncio.to_thread(made.kill)


@slow
async def test_code_runs_in_kernels_that_are_up(sandbox: Sandbox) -> None:
    def use() -> None:
        first = sandbox.run_code("x = 20; print('hello'); x + 1")
        assert (first.text, first.logs.stdout, first.execution_count) == ("21", ["hello\n"], 1)
        assert sandbox.run_code("import os; os.getenv('OF_SANDBOX')").text == "here"
        assert sandbox.run_code("import os; os.getenv('OF_RUN')", envs={"OF_RUN": "1"}).text == "1"
        assert (
            sandbox.run_code("import getpass, os; f'{getpass.getuser()} {os.getcwd()}'").text
            == "user /home/user"
        )
        assert sandbox.run_code("echo $OF_SANDBOX", language="bash").logs.stdout == ["here\n"]
        chart = sandbox.run_code(
            "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.show()"
        ).results[0]
        assert chart.png
        assert chart.chart is not None

    await asyncio.to_thread(use)


@slow
async def test_javascript_runs(sandbox: Sandbox) -> None:
    # The first run starts Node.js, which takes long under emulation.
    version = await asyncio.to_thread(sandbox.run_code, "process.version", language="js")
    assert (version.text or "").startswith("v"), version


@slow
async def test_contexts_and_a_killed_server(sandbox: Sandbox) -> None:
    def use() -> None:
        context = sandbox.create_code_context(cwd="/tmp")
        assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
        assert {"python", "javascript"} <= {each.language for each in sandbox.list_code_contexts()}
        sandbox.restart_code_context(context)
        sandbox.remove_code_context(context)
        sandbox.commands.run("pkill -9 -f 'python3 -m code_interpreter$'", user="root")
        sandbox.commands.run("until curl -sf localhost:49999/health; do sleep 0.5; done", timeout=400)
        assert sandbox.run_code("1 + 1").text == "2"

    await asyncio.to_thread(use)


@slow
async def test_variables_and_names_stay_over_a_pause(sandbox: Sandbox) -> None:
    def use() -> None:
        sandbox.run_code("kept = 7")
        sandbox.beta_pause()
        again: Any = Sandbox.connect(sandbox.sandbox_id)
        assert again.run_code("kept").text == "7"
        assert again.run_code("import os; os.getenv('OF_SANDBOX')").text == "here"

    await asyncio.to_thread(use)
