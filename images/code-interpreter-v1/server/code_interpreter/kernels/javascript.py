"""The JavaScript kernel, and with `--typescript` that of TypeScript, whose types Node.js removes."""

from __future__ import annotations

import sys
from pathlib import Path

from ipykernel.kernelapp import IPKernelApp

from code_interpreter.kernels.script import ScriptKernel, encoded_json

_WORKER = str(Path(__file__).with_name("javascript_worker.js"))


class JavaScriptKernel(ScriptKernel):
    """Runs code in one Node.js."""

    language = "javascript"
    language_info = {"name": "javascript", "mimetype": "text/javascript", "file_extension": ".js"}  # noqa: RUF012
    argv = ("node", "--no-warnings", _WORKER, "javascript")

    def encoded(self, code: str, sandbox: dict[str, str], call: dict[str, str]) -> bytes:
        """Return a line of JSON."""
        return encoded_json(code=code, sandbox=sandbox, call=call)


class TypeScriptKernel(JavaScriptKernel):
    """The same, after the types were removed."""

    language = "typescript"
    argv = ("node", "--no-warnings", _WORKER, "typescript")


if __name__ == "__main__":
    is_typescript = "--typescript" in sys.argv
    if is_typescript:
        sys.argv.remove("--typescript")
    IPKernelApp.launch_instance(kernel_class=TypeScriptKernel if is_typescript else JavaScriptKernel)
