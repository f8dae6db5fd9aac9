"""Refusals of template names."""

from __future__ import annotations

from wrenn.base.errors import Conflict


class NameReserved(Conflict):
    """A template of the platform has this name."""

    code = "name_reserved"


class TemplateNameTaken(Conflict):
    """The team has a template of this name, or is making one."""

    code = "template_name_taken"
