"""Errors for template names."""

from __future__ import annotations

from wrenn.base.errors import Conflict


class NameReserved(Conflict):
    """The name belongs to a template of the platform."""

    code = "name_reserved"


class TemplateNameTaken(Conflict):
    """The team already has a template of this name, or is creating one."""

    code = "template_name_taken"
