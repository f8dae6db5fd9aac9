"""The API of e2b, over the same services as the platform's own: docs/design/e2b.md."""

from wrenn.control.e2b.app import E2bEdge, build_e2b_app
from wrenn.control.e2b.sandboxes import E2bSandboxes

__all__ = ["E2bEdge", "E2bSandboxes", "build_e2b_app"]
