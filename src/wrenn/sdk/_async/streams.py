"""Streams of a running process: output as it is written, and input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from wrenn.base.on_failure import on_failure_await
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._frames import Exited, Frame, Reader, Started, message_of
from wrenn.sdk.errors import ConnectionFailedError, InvalidRequestError, NotFoundError
from wrenn.sdk.types import Output, Signal

if TYPE_CHECKING:
    from wrenn.sdk._sockets import AsyncSocket


async def send_signal(api: AsyncApi, sandbox_id: str, process: int | str, signal: Signal) -> bool:
    """Send a signal to the process with this pid or tag; returns False if there is none."""
    try:
        await api.call("DELETE", path_of(sandbox_id, "processes", str(process)), params={"signal": signal})
    except NotFoundError:
        return False
    return True


class AsyncFollowed:
    """Base class of streams and terminals. As a context manager it is closed at the end of the block.

    Attributes:
        pid: process id; 0 if the process could not be started.
        tag: name of the process; empty if it has none or was attached to by pid.
        missed: with replay, the number of bytes of output before the replayed ones.
        replayed: the number of bytes of the following output that were written before we attached.
        exit_code: None until the end was read; 128 + number if a signal terminated the process.
        exit_signal: name of that signal, e.g. `SIGKILL`.
        out_of_memory: the sandbox's kernel killed it, or a process that it started, because memory was
            exhausted.
    """

    def __init__(self, api: AsyncApi, sandbox_id: str, socket: AsyncSocket) -> None:
        self._api = api
        self._sandbox_id = sandbox_id
        self._socket = socket
        self._reader = Reader()
        self._ahead: Frame = None
        self.pid = 0
        self.tag = ""
        self.missed = 0
        self.replayed = 0
        self.exit_code: int | None = None
        self.exit_signal: str | None = None
        self.out_of_memory = False
        self.end: Exited | None = None

    async def begin(self, first_message: str | None) -> Self:
        """Send the first message and read until the process has started or failed to start.

        Raises:
            NotFoundError: no such process.
        """
        async with on_failure_await(self._socket.close):
            if first_message is not None:
                await self._socket.send(first_message)
            frame = await self._next(self._api.request_timeout_s)
        if isinstance(frame, Started):
            self.pid, self.tag = frame.pid, frame.tag
            self.missed, self.replayed = frame.missed, frame.replayed
        else:
            self._ahead = frame
        return self

    async def _next(self, timeout_s: float | None) -> Frame:
        frame, self._ahead = self._ahead, None
        while frame is None:
            frame = self._reader.read(await self._socket.receive(timeout_s))
        return frame

    async def read(self, timeout_s: float | None = None) -> Output | None:
        """Return the next piece of output, or None at the end, when `exit_code` is known.

        Raises:
            DeadlineExceededError: nothing arrived within `timeout_s`, and no output is lost; or the process
                exceeded its own time limit and was killed.
            InvalidStateError: the sandbox is being paused; the process continues when it is resumed.
            ConnectionFailedError: the connection broke.
        """
        while self.exit_code is None:
            frame = await self._next(timeout_s)
            if isinstance(frame, Output):
                return frame
            if isinstance(frame, Exited):
                self.end = frame
                self.exit_code, self.exit_signal = frame.exit_code, frame.signal_name
                self.out_of_memory = frame.out_of_memory
                await self._socket.close()
        return None

    async def wait(self, timeout_s: float | None = None) -> int:
        """Read and discard the remaining output, and return the exit code.

        Raises:
            DeadlineExceededError: the process wrote nothing for `timeout_s` and has not ended.
            WrennError: as for `read`.
        """
        while await self.read(timeout_s) is not None:
            pass
        assert self.exit_code is not None, "the output ends with the exit code"
        return self.exit_code

    async def signal(self, signal: Signal) -> bool:
        """Send a signal to the process and its group; returns False if it has ended."""
        return self.pid > 0 and await send_signal(self._api, self._sandbox_id, self.pid, signal)

    async def kill(self) -> bool:
        """Send SIGKILL; returns False if it has ended. Its remaining output can still be read."""
        return await self.signal("SIGKILL")

    async def close(self) -> None:
        """Close the stream. What happens to the process was chosen at its start (`on_disconnect`). Idempotent."""
        await self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncProcessStream(AsyncFollowed):
    """A streamed command. Iterating yields its output as it is written, until its end."""

    def __init__(self, api: AsyncApi, sandbox_id: str, socket: AsyncSocket, *, has_stdin: bool) -> None:
        super().__init__(api, sandbox_id, socket)
        self._has_stdin = has_stdin

    async def __aiter__(self) -> AsyncIterator[Output]:
        while (output := await self.read()) is not None:
            yield output

    async def send_stdin(self, data: str | bytes) -> None:
        """Write to the standard input; waits while too much is in transit.

        Data that the process does not read, because it has closed its input or has ended, is discarded.

        Raises:
            InvalidRequestError: it was started without `stdin=True`.
        """
        self._check_stdin()
        data = data.encode() if isinstance(data, str) else data
        for at in range(0, len(data), _INPUT_PIECE_B):
            if not await self._try_send(data[at : at + _INPUT_PIECE_B]):
                return

    async def close_stdin(self) -> None:
        """Close the standard input."""
        self._check_stdin()
        await self._try_send(message_of(type="close_stdin"))

    async def _try_send(self, message: str | bytes) -> bool:
        """Send a message; False if the platform has closed the stream, as it does at the end of a process. read() reports the reason."""
        if self.exit_code is not None:
            return False
        try:
            await self._socket.send(message)
        except ConnectionFailedError:
            if not self._socket.was_ended:
                raise
            return False
        return True

    def _check_stdin(self) -> None:
        if not self._has_stdin:
            raise InvalidRequestError("The command has no input: start it with stdin=True.")


class AsyncTerminal(AsyncFollowed):
    """A terminal of a sandbox. Iterating yields its output as bytes, until its end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (output := await self.read()) is not None:
            yield output.data

    async def send_input(self, data: str | bytes) -> None:
        r"""Send keystrokes: `"\x03"` is Ctrl-C."""
        data = data.encode() if isinstance(data, str) else data
        for at in range(0, len(data), _INPUT_PIECE_B):
            await self._socket.send(data[at : at + _INPUT_PIECE_B])

    async def resize(self, cols: int, rows: int) -> None:
        """Change its size."""
        await self._socket.send(message_of(type="resize", cols=cols, rows=rows))


_INPUT_PIECE_B = 64 * 1024
"""Longest message of input."""
