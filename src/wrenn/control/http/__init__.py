"""The HTTP side of the control plane: the application, error format, request ids, limits."""

from wrenn.control.http.answers import refusals
from wrenn.control.http.browsers import VISIT_COOKIE, BehindProxies, Browsers
from wrenn.control.http.connection import (
    UPLOAD_SILENCE_S,
    DownloadResponse,
    Pieces,
    PiecesResponse,
    StreamedBody,
    body_of,
    read_at_most,
    while_connected,
)
from wrenn.control.http.domain import DomainOf, PortDomain, domain_of
from wrenn.control.http.errors import ErrorBody, fault_text, public_error
from wrenn.control.http.event_stream import EventsResponse, EventStreamResponse
from wrenn.control.http.local_names import LocalNamesOnly, is_local_name
from wrenn.control.http.nearest import unknown_name
from wrenn.control.http.rate_limits import Rates, address_of, digest_of
from wrenn.control.http.services import service, service_of
from wrenn.control.http.sockets import ClientSocket
from wrenn.control.http.validation import RequestBody, nul_free_text, plain_text, wire_time, without_none

__all__ = [
    "UPLOAD_SILENCE_S",
    "VISIT_COOKIE",
    "BehindProxies",
    "Browsers",
    "ClientSocket",
    "DomainOf",
    "DownloadResponse",
    "ErrorBody",
    "EventStreamResponse",
    "EventsResponse",
    "LocalNamesOnly",
    "Pieces",
    "PiecesResponse",
    "PortDomain",
    "Rates",
    "RequestBody",
    "StreamedBody",
    "address_of",
    "body_of",
    "digest_of",
    "domain_of",
    "fault_text",
    "is_local_name",
    "nul_free_text",
    "plain_text",
    "public_error",
    "read_at_most",
    "refusals",
    "service",
    "service_of",
    "unknown_name",
    "while_connected",
    "wire_time",
    "without_none",
]
