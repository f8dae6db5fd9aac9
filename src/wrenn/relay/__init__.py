"""Proxies HTTP requests, WebSockets and byte streams between the control plane, the agent and the guest.

Messages are streamed and forwarded unchanged, except for hop-by-hop headers (`headers.py`). `http.py`,
`sockets.py` and `streams.py` forward the three kinds of traffic; `server.py` bounds uvicorn's side of a
connection and `connections.py` the HTTP client's; `pace.py` keeps one guest from using up the event loop.
Both sides are assumed to be hostile: every head, message and wait has a limit, and no body is buffered whole.
Authorization and routing are the caller's job.
"""

from wrenn.relay.asgi import Gone, Receive, Scope, Send, gone_of, unless_gone
from wrenn.relay.connections import NoCookies, PacedConnector, noticing_socket
from wrenn.relay.headers import Headers, end_to_end, value_of
from wrenn.relay.http import BrokenOff, Head, Request, head_of, send_answer
from wrenn.relay.pace import UNPACED, Pace
from wrenn.relay.server import HEADER_LIMIT, SERVER_OPTIONS, BoundedHttp, break_off
from wrenn.relay.session import new_session
from wrenn.relay.sockets import SocketRefused, connect_socket, cut_socket, relay_socket, send_refusal
from wrenn.relay.streams import END_OF_STREAM, relay_stream

__all__ = [
    "END_OF_STREAM",
    "HEADER_LIMIT",
    "SERVER_OPTIONS",
    "UNPACED",
    "BoundedHttp",
    "BrokenOff",
    "Gone",
    "Head",
    "Headers",
    "NoCookies",
    "Pace",
    "PacedConnector",
    "Receive",
    "Request",
    "Scope",
    "Send",
    "SocketRefused",
    "break_off",
    "connect_socket",
    "cut_socket",
    "end_to_end",
    "gone_of",
    "head_of",
    "new_session",
    "noticing_socket",
    "relay_socket",
    "relay_stream",
    "send_answer",
    "send_refusal",
    "unless_gone",
    "value_of",
]
