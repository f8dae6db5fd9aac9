"""The API of e2b, over the same services as the platform's own: docs/design/e2b.md."""

from wrenn.control.e2b.app import E2bEdge, build_e2b_app
from wrenn.control.e2b.builder_files import BuilderFiles, BuilderRetention, remove_all_of_team
from wrenn.control.e2b.logs import E2bLogs
from wrenn.control.e2b.metrics import E2bMetrics
from wrenn.control.e2b.sandboxes import E2bSandboxes
from wrenn.control.e2b.snapshots import E2bSnapshots
from wrenn.control.e2b.template_lookup import TemplateLookup
from wrenn.control.e2b.templates import E2bTemplates

__all__ = [
    "BuilderFiles",
    "BuilderRetention",
    "E2bEdge",
    "E2bLogs",
    "E2bMetrics",
    "E2bSandboxes",
    "E2bSnapshots",
    "E2bTemplates",
    "TemplateLookup",
    "build_e2b_app",
    "remove_all_of_team",
]
