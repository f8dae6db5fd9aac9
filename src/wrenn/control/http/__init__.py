"""The web's side of the control plane: the application, error shape, request ids, limits."""

from wrenn.control.http.connection import DownloadResponse, body_of, while_connected
from wrenn.control.http.errors import ErrorBody

__all__ = ["DownloadResponse", "ErrorBody", "body_of", "while_connected"]
