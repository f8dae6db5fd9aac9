"""Reading the audit log: its endpoints, and how long entries are kept. Writing it is `audit`."""

from wrenn.control.audit_log.retention import Retention
from wrenn.control.audit_log.routes import admin_router, router
from wrenn.control.audit_log.service import AuditLog

__all__ = ["AuditLog", "Retention", "admin_router", "router"]
