"""What a client's name of a template means here."""

from __future__ import annotations

from wrenn.control.auth import Caller
from wrenn.control.e2b.template_names import BASE_TEMPLATE, own_reference
from wrenn.control.templates import DEFAULT_TEMPLATE, Templates


class TemplateLookup:
    """Converts names of templates to references of the platform's own API."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    async def reference(self, caller: Caller, text: str) -> str:
        """Return the reference; whether there is such a template is not checked, but for `base`: where there is none, it is `minimal`.

        Raises:
            NotFound: it has a namespace.
        """
        reference = own_reference(text)
        name = reference.partition(":")[0]
        if name != BASE_TEMPLATE or await self._templates.versions(caller, name):
            return reference
        return name if await self._templates.is_built_by_hosts(caller, name) else DEFAULT_TEMPLATE
