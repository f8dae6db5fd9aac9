"""Proxies HTTP requests, WebSockets and byte streams between the control plane, the agent and the guest.

Messages are streamed and forwarded unchanged, except for hop-by-hop headers (`headers.py`). `exchange.py` serves
a client from the begin of its request to an end that it can understand; `http.py`, `sockets.py` and `streams.py`
forward the three kinds of traffic; `server.py` bounds uvicorn's side of a connection and `connections.py` the
HTTP client's; `pace.py` keeps one guest from using up the event loop.
Both sides are assumed to be hostile: every head, message and wait has a limit, and no body is buffered whole.
Authorization and routing are the caller's job.
"""

from wrenn.relay.asgi import CallerDisconnected, Receive, Scope, Send, cancel_on_disconnect
from wrenn.relay.connections import IgnoredCookies, PacedConnector, keepalive_socket
from wrenn.relay.exchange import Refusal, forward_request, forward_websocket, serve_exchange
from wrenn.relay.headers import Headers, end_to_end, header_value
from wrenn.relay.http import Head, IncompleteResponse, Request, head_of, read_bounded
from wrenn.relay.pace import UNPACED, Pace
from wrenn.relay.server import HEADER_LIMIT, SERVER_OPTIONS, BoundedHttp
from wrenn.relay.session import CONNECT_TIMEOUT_S, new_session
from wrenn.relay.sockets import abort_websocket, connect_websocket, relay_websocket
from wrenn.relay.streams import END_OF_STREAM, relay_stream

__all__ = [
    "CONNECT_TIMEOUT_S",
    "END_OF_STREAM",
    "HEADER_LIMIT",
    "SERVER_OPTIONS",
    "UNPACED",
    "BoundedHttp",
    "CallerDisconnected",
    "Head",
    "Headers",
    "IgnoredCookies",
    "IncompleteResponse",
    "Pace",
    "PacedConnector",
    "Receive",
    "Refusal",
    "Request",
    "Scope",
    "Send",
    "abort_websocket",
    "cancel_on_disconnect",
    "connect_websocket",
    "end_to_end",
    "forward_request",
    "forward_websocket",
    "head_of",
    "header_value",
    "keepalive_socket",
    "new_session",
    "read_bounded",
    "relay_stream",
    "relay_websocket",
    "serve_exchange",
]
