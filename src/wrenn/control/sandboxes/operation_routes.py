"""Endpoints for operations on one sandbox. Each parses the request, makes one call and responds.

Operations continue when the client disconnects, except a fork.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.http import DomainOf, refusals, service, while_connected, wire_time
from wrenn.control.sandboxes.operations.change_description import DescriptionChanges
from wrenn.control.sandboxes.operations.change_time_limits import TimeLimitChanges
from wrenn.control.sandboxes.operations.delete import Deletions
from wrenn.control.sandboxes.operations.disk import Disks
from wrenn.control.sandboxes.operations.fork import Forks
from wrenn.control.sandboxes.operations.move import Moves
from wrenn.control.sandboxes.operations.network import Networks
from wrenn.control.sandboxes.operations.pause import Pauses
from wrenn.control.sandboxes.operations.recover import Recoveries
from wrenn.control.sandboxes.operations.resume import Resumes
from wrenn.control.sandboxes.types import (
    ChangeSandbox,
    Fork,
    Move,
    Pause,
    RecoveredSandbox,
    Resume,
    SandboxList,
    SandboxView,
    SetDisk,
    SetNetwork,
    SetTimeout,
    sandbox_json,
)

router = APIRouter(prefix="/{sandbox_id}", tags=["sandboxes"])


PausesOf = Annotated[Pauses, service(Pauses)]
ResumesOf = Annotated[Resumes, service(Resumes)]
DeletionsOf = Annotated[Deletions, service(Deletions)]
TimeLimitChangesOf = Annotated[TimeLimitChanges, service(TimeLimitChanges)]


@router.patch("", response_model=SandboxView, responses=refusals(404, 409))
async def change_sandbox(
    sandbox_id: str,
    body: ChangeSandbox,
    credential: CredentialOf,
    changes: Annotated[DescriptionChanges, service(DescriptionChanges)],
    domain: DomainOf,
) -> Response:
    """Change name, metadata and public ports of a sandbox that has not ended. Does not count as activity."""
    return JSONResponse(sandbox_json(await changes.change(credential, sandbox_id, body), domain))


@router.delete("", status_code=204, responses=refusals(404, 503))
async def delete_sandbox(sandbox_id: str, credential: CredentialOf, deletions: DeletionsOf) -> Response:
    """Remove a sandbox; responds when nothing of it is left. May be repeated."""
    await deletions.delete(credential, sandbox_id)
    return Response(status_code=204)


@router.post("/pause", response_model=SandboxView, responses=refusals(404, 409, 502, 503, 504, 507))
async def pause_sandbox(
    sandbox_id: str,
    credential: CredentialOf,
    pauses: PausesOf,
    domain: DomainOf,
    body: Pause | None = None,
) -> Response:
    """Pause a running sandbox, with its memory, processes and files; responds when it is paused.

    With `keep_memory` false only its files are kept, and it boots when it is resumed.

    Calls in progress get two seconds to end. If the sandbox cannot be paused, it continues to run.
    """
    return JSONResponse(
        sandbox_json(
            await pauses.pause(credential, sandbox_id, keep_memory=body is None or body.keep_memory), domain
        )
    )


@router.post("/resume", response_model=SandboxView, responses=refusals(404, 409, 502, 503, 504, 507))
async def resume_sandbox(
    sandbox_id: str,
    credential: CredentialOf,
    resumes: ResumesOf,
    domain: DomainOf,
    body: Resume | None = None,
) -> Response:
    """Resume a paused sandbox; responds when it runs. If it cannot be resumed, it stays paused.

    If its memory was not kept, or with `keep_memory` false, it boots from its disk.
    """
    return JSONResponse(
        sandbox_json(
            await resumes.resume(credential, sandbox_id, keep_memory=body is None or body.keep_memory), domain
        )
    )


@router.post("/move", response_model=SandboxView, responses=refusals(403, 404, 409, 502, 503, 504, 507))
async def move_sandbox(
    sandbox_id: str,
    body: Move,
    credential: CredentialOf,
    moves: Annotated[Moves, service(Moves)],
    domain: DomainOf,
) -> Response:
    """Move a paused sandbox to another host; responds when it is there.

    If it cannot be moved, it stays where it is. With `pause` a running one is paused, moved and resumed; its network connections
    end. After 504 the move goes on.
    """
    done = await moves.move(credential, sandbox_id, host_id=body.host_id, pause=body.pause)
    return JSONResponse(sandbox_json(done, domain))


@router.post("/recover", response_model=RecoveredSandbox, responses=refusals(404, 409, 502, 503, 504, 507))
async def recover_sandbox(
    sandbox_id: str,
    credential: CredentialOf,
    recoveries: Annotated[Recoveries, service(Recoveries)],
    domain: DomainOf,
) -> Response:
    """Start a paused or missing sandbox whose host is lost on another host, from the state that the store has of it (`stored_at`).

    What happened after `saved_at` is lost, also when the host is back. Responds when the sandbox runs.
    """
    done, saved_at = await recoveries.recover(credential, sandbox_id)
    return JSONResponse({"sandbox": sandbox_json(done, domain), "saved_at": wire_time(saved_at)})


@router.patch("/timeout", response_model=SandboxView, responses=refusals(404, 409))
async def set_timeout(
    sandbox_id: str, body: SetTimeout, credential: CredentialOf, changes: TimeLimitChangesOf, domain: DomainOf
) -> Response:
    """Change when a sandbox is paused or removed automatically. Does not count as activity: the idle time continues."""
    return JSONResponse(sandbox_json(await changes.set_timeout(credential, sandbox_id, body), domain))


@router.patch("/network", response_model=SandboxView, responses=refusals(404, 409, 502, 503))
async def set_network(
    sandbox_id: str,
    body: SetNetwork,
    credential: CredentialOf,
    networks: Annotated[Networks, service(Networks)],
    domain: DomainOf,
) -> Response:
    """Change the network policy of a running or paused sandbox; responds when it is in force, also for open connections.

    Does not count as activity. With 503 the host does not respond: the change is stored and applied when the host responds again.
    """
    return JSONResponse(sandbox_json(await networks.set_network(credential, sandbox_id, body), domain))


@router.patch("/disk", response_model=SandboxView, responses=refusals(404, 409, 502, 503, 504, 507))
async def set_disk(
    sandbox_id: str,
    body: SetDisk,
    credential: CredentialOf,
    disks: Annotated[Disks, service(Disks)],
    domain: DomainOf,
) -> Response:
    """Enlarge the disk of a sandbox, and the share of its host's disk that it may use; responds when a running sandbox has it.

    Does not count as activity. A sandbox that is suspended for using up its share continues if that is enough; otherwise 507. A paused
    sandbox has the larger disk when it is resumed. After 502 to 504 repeat the request.
    """
    return JSONResponse(sandbox_json(await disks.set_disk(credential, sandbox_id, body.disk_size_mb), domain))


@router.post(
    "/fork", status_code=201, response_model=SandboxList, responses=refusals(404, 409, 502, 503, 504, 507)
)
async def fork_sandbox(
    request: Request,
    sandbox_id: str,
    body: Fork,
    *,
    credential: CredentialOf,
    forks: Annotated[Forks, service(Forks)],
    domain: DomainOf,
) -> Response:
    """Make copies of a running sandbox, with its memory, processes and files; responds when all run.

    The sandbox itself continues after one short stop. All copies are made or none: if one does not start, or the client disconnects,
    those that started are removed.
    """
    copies = await while_connected(request, forks.fork(credential, sandbox_id, body.count))
    return JSONResponse({"sandboxes": [sandbox_json(copy, domain) for copy in copies]}, 201)
