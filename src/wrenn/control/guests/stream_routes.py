"""WebSockets that follow a process; docs/reference/streams.md describes them, since OpenAPI cannot."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from wrenn.control.guests.streams import Streams
from wrenn.control.http import ClientSocket, service_of

router = APIRouter(prefix="/{sandbox_id}")


@router.websocket("/exec/stream")
async def exec_stream(websocket: WebSocket, sandbox_id: str) -> None:
    """Start a program and follow it."""
    await _streams(websocket).exec(ClientSocket(websocket), sandbox_id)


@router.websocket("/pty")
async def terminal(websocket: WebSocket, sandbox_id: str) -> None:
    """Start a program in a terminal, or follow one that runs there."""
    await _streams(websocket).terminal(ClientSocket(websocket), sandbox_id)


@router.websocket("/processes/{selector}/stream")
async def attach(websocket: WebSocket, sandbox_id: str, selector: str) -> None:
    """Follow a process that runs."""
    await _streams(websocket).attach(
        ClientSocket(websocket), sandbox_id, selector, options=websocket.query_params
    )


def _streams(websocket: WebSocket) -> Streams:
    return service_of(websocket, Streams)
