"""Sandboxes as tools of the Model Context Protocol, for models and programs that speak it. Built on the SDK."""

from wrenn.mcp.serving import serve_http, serve_stdio
from wrenn.mcp.session import Limits

__all__ = ["Limits", "serve_http", "serve_stdio"]
