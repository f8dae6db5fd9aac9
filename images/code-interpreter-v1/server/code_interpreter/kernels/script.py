"""A kernel that runs code in a program of its own, with pipes: one for requests, one for what the program says about a run.

The program's standard output and error are read as they come; its messages are JSON objects, one a line:
`{"type": "result", "text": …}`, `{"type": "error", "name": …, "value": …, "traceback": […]}` and, at the end of each run, `{"type": "end"}`.
"""

from __future__ import annotations

import codecs
import json
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ipykernel.kernelbase import Kernel

from code_interpreter.variables import CALL_KEY, SANDBOX_KEY, checked

_CHUNK_B = 32 << 10
_PIPE_B = 1 << 20
"""The most that a pipe of a user without privileges can be made to hold."""
_MESSAGE_LIMIT_B = 32 << 20
_GRACE_S = 2.0
"""After an interrupt the program is killed if it has not ended the run within this time."""


class ScriptKernel(Kernel):
    """The part that all languages have; a subclass names the program and encodes requests."""

    implementation = "code-interpreter"
    implementation_version = "1"
    banner = ""
    argv: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._program: subprocess.Popen[bytes] | None = None
        self._requests = self._messages = -1
        self._metadata: Mapping[str, Any] = {}

    def encoded(self, code: str, sandbox: dict[str, str], call: dict[str, str]) -> bytes:
        """Return the bytes of a request."""
        raise NotImplementedError

    async def execute_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Keep the metadata of the request for `do_execute`."""
        self._metadata = parent.get("metadata") or {}
        await super().execute_request(stream, ident, parent)

    def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        """Run code; blocks. A program that has ended is started again."""
        sandbox, call = (self._metadata.get(key) or {} for key in (SANDBOX_KEY, CALL_KEY))
        run = _Run(self, silent=silent)
        try:
            self._ensure_program()
            try:
                _write_all(self._requests, self.encoded(code, checked(sandbox), checked(call)))
            except BrokenPipeError:
                run.failed("ProgramEnded", "The program that runs the code has ended")
            else:
                self._follow(run)
        except KeyboardInterrupt:
            self._follow_interrupted(run)
        reply = {"execution_count": self.execution_count}
        if run.error is not None:
            return reply | run.error | {"status": "error"}
        return reply | {"status": "ok", "payload": [], "user_expressions": {}}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the program with the kernel."""
        self._end_program()
        return {"status": "ok", "restart": restart}

    def _ensure_program(self) -> None:
        if self._program is not None and self._program.poll() is None:
            return
        self._end_program()
        request_end, self._requests = os.pipe()
        self._messages, message_end = os.pipe()
        try:
            self._program = subprocess.Popen(
                [*self.argv, str(request_end), str(message_end)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(request_end, message_end),
                restore_signals=True,
            )
        finally:
            os.close(request_end)
            os.close(message_end)

    def _end_program(self) -> None:
        if self._program is not None:
            self._program.kill()
            self._program.wait()
            for pipe in (self._program.stdout, self._program.stderr):
                if pipe is not None:
                    pipe.close()
            self._program = None
        for descriptor in (self._requests, self._messages):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._messages = -1

    def _follow_interrupted(self, run: _Run) -> None:
        # The signal went to the program too, which has the same process group.
        try:
            self._follow(run, timeout_s=_GRACE_S)
        except (KeyboardInterrupt, TimeoutError):
            self._end_program()
        if run.error is None:
            run.failed("KeyboardInterrupt", "The run was interrupted")

    def _follow(self, run: _Run, timeout_s: float | None = None) -> None:
        """Pass on what the program writes until the run ends, or the program does."""
        assert self._program is not None
        assert self._program.stdout is not None
        assert self._program.stderr is not None
        names = {self._program.stdout.fileno(): "stdout", self._program.stderr.fileno(): "stderr"}
        with selectors.DefaultSelector() as selector:
            for descriptor in (*names, self._messages):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                ready = selector.select(timeout_s)
                if not ready and timeout_s is not None:
                    raise TimeoutError
                for key, _ in ready:
                    data = os.read(key.fd, _CHUNK_B)
                    if key.fd in names:
                        run.output(names[key.fd], data)
                        if not data:
                            selector.unregister(key.fd)
                    elif not data:
                        # Only the program itself has this end; what it started may still hold the others.
                        self._drain(names, run)
                        code = self._program.wait()
                        run.failed(
                            "ProgramEnded", f"The program that runs the code has ended ({_ending(code)})"
                        )
                        self._end_program()
                        return
                    elif run.message(data):
                        self._drain(names, run)
                        return

    @staticmethod
    def _drain(names: Mapping[int, str], run: _Run) -> None:
        """Read what is in the pipes already: written before the end of the run was reported.

        No more than a pipe can hold: a program in the background may write for ever.
        """
        for descriptor, name in names.items():
            os.set_blocking(descriptor, False)
            left_b = _PIPE_B
            try:
                while left_b > 0 and (data := os.read(descriptor, min(_CHUNK_B, left_b))):
                    left_b -= len(data)
                    run.output(name, data)
            except BlockingIOError:
                pass
            finally:
                os.set_blocking(descriptor, True)
        run.flush()


class _Run:
    """What one run has reported so far."""

    def __init__(self, kernel: ScriptKernel, *, silent: bool) -> None:
        self._kernel = kernel
        self._silent = silent
        self._buffered = b""
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }
        self.error: dict[str, Any] | None = None

    def output(self, name: str, data: bytes) -> None:
        self._write(name, self._decoders[name].decode(data))

    def flush(self) -> None:
        for name, decoder in self._decoders.items():
            self._write(name, decoder.decode(b"", final=True))

    def message(self, data: bytes) -> bool:
        """Take bytes of messages; returns whether the run has ended."""
        *lines, self._buffered = (self._buffered + data).split(b"\n")
        if len(self._buffered) > _MESSAGE_LIMIT_B:
            self._buffered = b""
        for line in lines:
            message = json.loads(line)
            if message["type"] == "end":
                return True
            if message["type"] == "error":
                self.failed(message["name"], message["value"], message["traceback"])
            elif not self._silent:
                content = {
                    "data": {"text/plain": message["text"]},
                    "metadata": {},
                    "execution_count": self._kernel.execution_count,
                }
                self._kernel.send_response(self._kernel.iopub_socket, "execute_result", content)
        return False

    def failed(self, name: str, value: str, traceback: Sequence[str] = ()) -> None:
        self.error = {"ename": name, "evalue": value, "traceback": list(traceback)}
        if not self._silent:
            self._kernel.send_response(self._kernel.iopub_socket, "error", self.error)

    def _write(self, name: str, text: str) -> None:
        if text and not self._silent:
            self._kernel.send_response(self._kernel.iopub_socket, "stream", {"name": name, "text": text})


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def encoded_json(**request: Any) -> bytes:
    """Return a request that is one line of JSON."""
    return json.dumps(request).encode() + b"\n"
