"""References of bases: templates, and container images of registries."""

from __future__ import annotations

import re
from typing import Final

from wrenn.recipe.instructions import BaseKind, From
from wrenn.recipe.limits import refused, shown

_TEMPLATE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}(?::[a-zA-Z0-9][a-zA-Z0-9._-]{0,63})?")
"""Name and tag of a template, as docs/design/templates.md defines them."""

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:(?P<registry>(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?)/)?"
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MAX_REFERENCE: Final = 512
"""Characters: more than the 255 of a repository, the 128 of a tag and a digest."""
ARCHIVES: Final = ("oci-archive", "docker-archive")
"""Formats of container images in an archive, as skopeo names them."""
_LOCAL: Final = ("oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:", "docker-daemon:")


def parse_base(reference: str, *, default: BaseKind, line: int, text: str) -> From:
    """Parse the reference of a FROM. `default` is what a reference without a prefix names.

    Raises:
        InvalidRequest: neither a template nor an image of a registry or an archive.
    """
    kind = default
    if reference.startswith("docker://"):
        kind, reference = BaseKind.IMAGE, reference.removeprefix("docker://")
    elif reference.startswith("template://"):
        kind, reference = BaseKind.TEMPLATE, reference.removeprefix("template://")
    elif reference.endswith(":") and reference[:-1] in ARCHIVES:
        return From(kind=BaseKind.ARCHIVE, reference=reference[:-1], line=line, text=text)
    elif reference.startswith(_LOCAL):
        raise refused(
            line,
            f"{shown(reference)} is local: push it to a registry, or import it with `wrenn templates import`, and build from there",
        )
    if kind is BaseKind.TEMPLATE:
        if not _TEMPLATE.fullmatch(reference):
            raise refused(line, f"{shown(reference)} is not a template: expected NAME or NAME:TAG")
    elif len(reference) > _MAX_REFERENCE or not _IMAGE.fullmatch(reference):
        raise refused(
            line,
            f"{shown(reference)} is not a container image: expected [REGISTRY/]NAME[:TAG][@sha256:DIGEST]",
        )
    return From(kind=kind, reference=reference, line=line, text=text)
