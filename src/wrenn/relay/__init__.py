"""Pass HTTP requests, WebSockets and byte streams on, unchanged and as they come: control plane → agent → guest.

`headers.py` says what belongs to one connection only; `http.py`, `sockets.py` and `streams.py` pass on; `server.py` is
uvicorn's end of a connection with bounds, `connections.py` the HTTP client's; `pace.py` keeps one guest from using the whole loop. Both sides are taken to be
hostile: every head, message and wait has a bound, and no body is held. Who may pass, and where to, their callers decide.
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
