"""A sandbox as the backend of LangChain's deepagents: the agent's shell and files are those of the sandbox.

Usage: ANTHROPIC_API_KEY=… python deepagents_backend.py "Which is the 1000th prime number?"
"""

from __future__ import annotations

import sys

from deepagents import create_deep_agent
from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox
from langchain_core.language_models import BaseChatModel

from wrenn import CommandTimeoutError, InvalidRequestError, NotFoundError, Sandbox, WrennError

DEFAULT_TIMEOUT_S = 300


class WrennBackend(BaseSandbox):
    """Runs commands and keeps files in a sandbox. deepagents derives its file tools from these methods."""

    enable_capture_offload = True

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self._sandbox.id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a command line; one that reaches its time limit (seconds; 0: none) is killed."""
        limit_s = DEFAULT_TIMEOUT_S if timeout is None else timeout
        try:
            result = self._sandbox.commands.run(command, timeout_s=limit_s)
        except CommandTimeoutError as error:
            result = error.result
        return ExecuteResponse(
            output=result.stdout + result.stderr, exit_code=result.exit_code, truncated=result.truncated
        )

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files; each has its own result."""
        return [self._upload(path, content) for path, content in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files; each has its own result."""
        return [self._download(path) for path in paths]

    def _upload(self, path: str, content: bytes) -> FileUploadResponse:
        try:
            self._sandbox.files.write(path, content)
        except WrennError as error:
            return FileUploadResponse(path=path, error=_reason(error))
        return FileUploadResponse(path=path)

    def _download(self, path: str) -> FileDownloadResponse:
        try:
            return FileDownloadResponse(path=path, content=self._sandbox.files.read(path, "bytes"))
        except WrennError as error:
            return FileDownloadResponse(path=path, error=_reason(error))


def _reason(error: WrennError) -> str:
    """Return the word of deepagents for an error, or its message if there is none."""
    if isinstance(error, NotFoundError):
        return "file_not_found"
    if isinstance(error, InvalidRequestError):
        return "is_directory" if "directory" in error.message.lower() else "invalid_path"
    return error.message


def solve(task: str, model: str | BaseChatModel = "anthropic:claude-sonnet-4-5") -> str:
    """Let the model work on the task in a sandbox of its own, and return its answer."""
    with Sandbox.create() as sandbox:
        agent = create_deep_agent(model=model, backend=WrennBackend(sandbox))
        result = agent.invoke({"messages": [{"role": "user", "content": task}]})
        return str(result["messages"][-1].text)


if __name__ == "__main__":
    print(solve(" ".join(sys.argv[1:]) or "Which is the 1000th prime number?"))
