"""The error responses in the description of the API."""

from __future__ import annotations

from typing import Any, Final

from wrenn.control.http.errors import ErrorBody

_MEANING: Final = {
    400: "`invalid_request`: the message names the field",
    401: "`unauthorized`: no credentials, or not valid ones; `access_lost`: they stopped being valid meanwhile",
    403: "`forbidden`: the role or the scope of the key does not allow it, or the thing is the platform's; "
    "`account_deactivated`; `no_team`",
    404: "`not_found`: no such thing of this team; `host_deleted`: to the agent of a host",
    409: "`conflict`: it exists already, or the idempotency key is another request's; `invalid_state`: it is not in a "
    "state for this, the message says in which it is; `name_reserved`, `template_name_taken`: of a template; "
    "`has_active_sandboxes`: of a host; `stale_generation`: the sandbox was started on another host meanwhile",
    416: "`invalid_request`: the file has no such part; `Content-Range` says how long it is",
    413: "`too_large`: body, file or output above its limit",
    429: "`rate_limited`: `Retry-After` says when to come again",
    502: "`agent_error`: the host or the guest could not do it",
    503: "`no_hosts_available`: the message says what is full; `host_unavailable`, `database_unavailable`, `store_unavailable`: try again; "
    "`host_draining`: the host with its files takes no sandboxes now",
    504: "`deadline_exceeded`: it did not end in time",
    507: "`storage_full`: the disk of the host or of the guest, or the store, is full",
}


_SCHEMA: Final = "#/components/schemas/{model}"
_CONTENT: Final = {"application/json": {"schema": {"$ref": _SCHEMA.format(model=ErrorBody.__name__)}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for these error statuses and for those that every endpoint can return.

    They name the body, and `describe_refusals` describes it once: FastAPI would make a serializer of it for each of
    some hundred answers, which none uses.
    """
    return {
        status: {"content": _CONTENT, "description": _MEANING[status]}
        for status in sorted({400, 401, 403, 429, 503, *statuses})
    }


def describe_refusals(document: dict[str, Any]) -> None:
    """Add the body of refusals to an API description."""
    schema = ErrorBody.model_json_schema(ref_template=_SCHEMA, mode="serialization")
    parts = schema.pop("$defs")
    schemas: dict[str, Any] = document.setdefault("components", {}).get("schemas", {})
    document["components"]["schemas"] = dict(sorted({**schemas, **parts, ErrorBody.__name__: schema}.items()))
