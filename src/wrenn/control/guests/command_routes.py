"""Endpoints for programs in a sandbox."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.guests.commands import Commands
from wrenn.control.guests.exec_response import exec_answer
from wrenn.control.guests.types import Exec, ExecResult, ExecTimedOut, ProcessList, Started
from wrenn.control.guests.views import process_json, started_json
from wrenn.control.hosts import ProcessEnd
from wrenn.control.http import PiecesResponse, refusals, service, while_connected

router = APIRouter(prefix="/{sandbox_id}", tags=["commands"])


Service = Annotated[Commands, service(Commands)]


@router.post(
    "/exec",
    response_model=ExecResult,
    responses={202: {"model": Started, "description": "Started in the background"}}
    | refusals(404, 409, 413, 429, 502, 504)
    | {504: {"model": ExecTimedOut, "description": "Killed at its time limit, or the host did not answer"}},
)
async def exec_command(
    request: Request, sandbox_id: str, body: Exec, credential: CredentialOf, commands: Service
) -> Response:
    """Run a program to its end and return its output, or start it in the background.

    It is not passed through a shell. In the foreground the call ends when the program itself has ended: what it left running
    in the background lives on. The program is killed with all that came from it when its time is up (the error then has what
    it wrote until then) and when the client goes away.
    """
    if body.background:
        return JSONResponse(started_json(await commands.start(credential, sandbox_id, body)), 202)

    async def while_wanted(call: Coroutine[Any, Any, ProcessEnd]) -> ProcessEnd:
        return await while_connected(request, call)

    running = commands.run(credential, sandbox_id, body, while_wanted=while_wanted)
    return PiecesResponse(exec_answer(running, body.cmd))


@router.get("/processes", response_model=ProcessList, responses=refusals(404, 409, 502))
async def list_processes(sandbox_id: str, credential: CredentialOf, commands: Service) -> Response:
    """The living processes that were started through the API."""
    found = await commands.list(credential, sandbox_id)
    return JSONResponse({"processes": [process_json(process) for process in found]})


@router.delete("/processes/{selector}", status_code=204, responses=refusals(404, 409, 502))
async def signal_process(
    sandbox_id: str,
    selector: str,
    credential: CredentialOf,
    commands: Service,
    signal: Annotated[
        str, Query(description="SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, …")
    ] = "SIGKILL",
) -> Response:
    """Send a signal to the process of this pid (digits) or tag, and to its children."""
    await commands.signal(credential, sandbox_id, selector, signal)
    return Response(status_code=204)
