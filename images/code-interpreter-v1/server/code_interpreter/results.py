"""The lines of an answer, made from the messages of a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHART_MIME = "application/x-chart+json"
DATA_MIME = "application/x-data+json"
"""Types that the Python kernel here adds to figures and data frames."""

_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    DATA_MIME: "data",
    CHART_MIME: "chart",
}


def line_of(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the line for a message of the kernel's output channel; None if clients are not told of it."""
    content = message["content"]
    match message["msg_type"]:
        case "stream":
            return {
                "type": content["name"],
                "text": content["text"],
                "timestamp": message["header"]["date"].isoformat(),
            }
        case "execute_result":
            return _result(content["data"], is_main_result=True)
        case "display_data" | "update_display_data":
            return _result(content["data"], is_main_result=False)
        case "error":
            return error(content["ename"], content["evalue"], "\n".join(content["traceback"]))
        case "execute_input":
            return {"type": "number_of_executions", "execution_count": content["execution_count"]}
        case _:
            return None


def error(name: str, value: str, traceback: str = "") -> dict[str, Any]:
    """Return the line for code that failed."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def _result(data: Mapping[str, Any], *, is_main_result: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"type": "result", "is_main_result": is_main_result}
    extra: dict[str, Any] = {}
    for mime, value in data.items():
        if mime in _FIELDS:
            line[_FIELDS[mime]] = value
        else:
            extra[mime] = value
    if isinstance(text := line.get("text"), str):
        line["text"] = _without_quotes(text)
    if extra:
        line["extra"] = extra
    return line


def _without_quotes(text: str) -> str:
    # The text of a string is the string, not how the language writes it.
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text
