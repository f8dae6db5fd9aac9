"""The web's side of the control plane: the application, error shape, request ids, limits."""

from wrenn.control.http.answers import refusals
from wrenn.control.http.connection import DownloadResponse, body_of, while_connected
from wrenn.control.http.errors import ErrorBody
from wrenn.control.http.event_stream import EventStreamResponse
from wrenn.control.http.messages import RequestBody, wire_time

__all__ = [
    "DownloadResponse",
    "ErrorBody",
    "EventStreamResponse",
    "RequestBody",
    "body_of",
    "refusals",
    "while_connected",
    "wire_time",
]
