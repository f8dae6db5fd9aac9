"""Endpoints for what runs and listens in a sandbox, and for its console."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.guests.inspection import Inspection
from wrenn.control.guests.types import AllProcesses, ConsoleView, PortList
from wrenn.control.guests.views import guest_process_json, port_json
from wrenn.control.http import DomainOf, refusals, service

router = APIRouter(prefix="/{sandbox_id}")

Service = Annotated[Inspection, service(Inspection)]


@router.get("/ports", response_model=PortList, responses=refusals(404, 409, 502), tags=["ports"])
async def list_ports(
    sandbox_id: str, credential: CredentialOf, inspection: Service, domain: DomainOf
) -> Response:
    """The ports on which programs in a running sandbox accept TCP connections.

    Does not count as activity and resumes no paused sandbox. Ports of containers in their own networks are not seen.
    """
    sandbox, found = await inspection.ports(credential, sandbox_id)
    host = f"{sandbox.sandbox_id}.{domain}"
    return JSONResponse({"ports": [port_json(port, host) for port in found]})


@router.get(
    "/processes/all", response_model=AllProcesses, responses=refusals(404, 409, 502), tags=["commands"]
)
async def list_all_processes(sandbox_id: str, credential: CredentialOf, inspection: Service) -> Response:
    """All programs that run in a sandbox, whoever started them, with what they use; at most 1024.

    Does not count as activity and resumes no paused sandbox. The CPU usage of a process is the difference of `cpu_ms` between two
    answers, divided by that of `at_ms`.
    """
    found = await inspection.processes(credential, sandbox_id)
    return JSONResponse(
        {"at_ms": found.at_ms, "processes": [guest_process_json(process) for process in found.processes]}
    )


@router.get("/console", response_model=ConsoleView, responses=refusals(404, 409, 502), tags=["commands"])
async def read_console(sandbox_id: str, credential: CredentialOf, inspection: Service) -> Response:
    """The end of what the kernel and the first process of a running sandbox wrote to its console, at most 64 KiB.

    For a sandbox that does not answer: its guest is not asked. It begins anew when the sandbox is resumed. Does not count as
    activity and resumes no paused sandbox.
    """
    return JSONResponse({"text": await inspection.console(credential, sandbox_id)})
