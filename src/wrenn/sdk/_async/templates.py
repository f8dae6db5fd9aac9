"""Templates, from which sandboxes are created."""

from __future__ import annotations

from wrenn.sdk._async.api import AsyncApi, snapshot_path_of, template_path_of
from wrenn.sdk._parse import Fields, json_of, objects
from wrenn.sdk.errors import NotFoundError
from wrenn.sdk.types import TemplateInfo, TemplateType


async def snapshot(
    api: AsyncApi, sandbox_id: str, name: str | None, *, overwrite: bool, keep_memory: bool
) -> TemplateInfo:
    """Create a template from a sandbox.

    Retried only with `overwrite`: otherwise a retry after a lost response would create a second template, or
    fail because of the first one's name.
    """
    wanted: dict[str, str | bool] = {"sandbox_id": sandbox_id}
    if name is not None:
        wanted["name"] = name
    if not keep_memory:
        wanted["keep_memory"] = False
    body = await api.call(
        "POST",
        snapshot_path_of(),
        params={"overwrite": "true"} if overwrite else None,
        json=wanted,
        repeatable=overwrite and name is not None,
    )
    return TemplateInfo.parse(Fields("template", json_of(body)))


async def find(api: AsyncApi, kind: TemplateType | None) -> list[TemplateInfo]:
    """List the templates that the team can use, of all types or one."""
    params = None if kind is None else {"type": kind}
    body = await api.call("GET", snapshot_path_of(), params=params, repeatable=True)
    return [TemplateInfo.parse(fields) for fields in objects("template", json_of(body))]


async def delete(api: AsyncApi, name: str) -> None:
    """Delete a template. If a retry finds none, that is a success: the attempt whose response was lost did it."""
    try:
        await api.call("DELETE", snapshot_path_of(name), repeatable=True)
    except NotFoundError as error:
        if not error.earlier_attempt_sent:
            raise


async def get(api: AsyncApi, reference: str) -> TemplateInfo:
    """Return the version that `NAME`, `NAME:TAG` or an id refers to."""
    body = await api.call("GET", template_path_of(reference), repeatable=True)
    return TemplateInfo.parse(Fields("template", json_of(body)))


async def set_tag(api: AsyncApi, reference: str, tag: str) -> TemplateInfo:
    """Let a tag refer to a version."""
    body = await api.call("PUT", template_path_of(reference, "tags", tag), repeatable=True)
    return TemplateInfo.parse(Fields("template", json_of(body)))
