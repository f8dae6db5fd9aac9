"""Code in the kernels of a sandbox by the SDK, with the real server of `code-interpreter-v1`; both clients.

Guests of the simulated driver share the machine's loopback, so the server there stands for the one in the sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from sdk_clients import Platform

from tests.interpreter_server import InterpreterServer, running_interpreter
from wrenn import (
    AsyncSandbox,
    CodeExecution,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    Sandbox,
    WrennError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PORT = 49_999


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InterpreterServer]:
    with running_interpreter(tmp_path_factory.mktemp("interpreter"), PORT) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["async", "sync"])
async def sandbox(request: pytest.FixtureRequest, platform: Platform) -> AsyncIterator[Any]:
    if request.param == "async":
        async with await AsyncSandbox.create() as made:
            yield made
    else:
        made = await asyncio.to_thread(Sandbox.create)
        yield made
        await asyncio.to_thread(made.kill)


async def do(sandbox: Any, call: Any, *args: Any, **options: Any) -> Any:
    """Call a method of either client."""
    if isinstance(sandbox, AsyncSandbox):
        return await call(*args, **options)
    return await asyncio.to_thread(call, *args, **options)


async def test_code_keeps_its_state_and_reports_what_it_shows(
    sandbox: Any, server: InterpreterServer
) -> None:
    seen: list[str] = []
    first: CodeExecution = await do(
        sandbox,
        sandbox.run_code,
        "x = 20; print('out'); import sys; print('err', file=sys.stderr); x + 1",
        on_stdout=seen.append,
    )
    assert (first.text, first.stdout, first.stderr, first.error) == ("21", "out\n", "err\n", None)
    assert "".join(seen) == "out\n"
    second = await do(
        sandbox, sandbox.code.run, "import os; os.environ['OF_RUN'] + str(x)", envs={"OF_RUN": "v"}
    )
    assert second.text == "v20"
    assert second.count == first.count + 1  # type: ignore[operator]
    shown = await do(
        sandbox,
        sandbox.run_code,
        "from IPython.display import HTML, display; display(HTML('<b>'), {'a/b': 1}, raw=False)",
    )
    assert shown.results[0].formats["html"] == "<b>"
    assert not shown.results[0].is_main
    failed = await do(sandbox, sandbox.run_code, "1 / 0")
    assert failed.error.name == "ZeroDivisionError"
    assert "ZeroDivisionError" in failed.error.traceback
    assert (await do(sandbox, sandbox.run_code, "echo $((6 * 7))", language="bash")).stdout == "42\n"


async def test_contexts(sandbox: Any, server: InterpreterServer) -> None:
    code = sandbox.code
    context = await do(sandbox, code.create_context, cwd=str(server.cwd))
    assert context in await do(sandbox, code.list_contexts)
    assert (await do(sandbox, code.run, "kept = 1; kept", context=context)).text == "1"
    await do(sandbox, code.restart_context, context)
    assert (await do(sandbox, code.run, "kept", context=context.id)).error.name == "NameError"
    await do(sandbox, code.remove_context, context)
    with pytest.raises(NotFoundError, match="not found"):
        await do(sandbox, code.run, "1", context=context)


async def test_bad_requests_are_refused(sandbox: Any, server: InterpreterServer) -> None:
    with pytest.raises(InvalidRequestError, match="cobol is not supported"):
        await do(sandbox, sandbox.run_code, "1", language="cobol")
    with pytest.raises(InvalidRequestError, match="not both"):
        await do(sandbox, sandbox.run_code, "1", language="python", context="x")
    with pytest.raises(InvalidRequestError):
        await do(sandbox, sandbox.code.remove_context, "..")


async def test_code_is_interrupted_at_its_time_limit(sandbox: Any, server: InterpreterServer) -> None:
    with pytest.raises(DeadlineExceededError, match="interrupted"):
        await do(
            sandbox,
            sandbox.run_code,
            "interrupted = False\ntry:\n  import time; time.sleep(60)\nfinally:\n  interrupted = True",
            timeout_s=1,
        )
    assert (await do(sandbox, sandbox.run_code, "interrupted")).text == "True"


async def test_a_sandbox_without_an_interpreter_says_so(sandbox: Any) -> None:
    # Last: the server has to be stopped.
    elsewhere = type(sandbox.code)(sandbox._api, sandbox.id)
    elsewhere._headers = {**elsewhere._headers, "E2b-Sandbox-Port": "1"}
    with pytest.raises(WrennError, match="port is not open"):
        await do(sandbox, elsewhere.run, "1")
