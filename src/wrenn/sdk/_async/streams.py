"""A process that is followed while it runs: what it writes as it comes, and what is written to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._frames import Exited, Frame, Reader, Started, message_of
from wrenn.sdk.errors import ConnectionFailedError, InvalidRequestError, NotFoundError
from wrenn.sdk.types import Output, Signal

if TYPE_CHECKING:
    from wrenn.sdk._sockets import AsyncSocket


async def send_signal(api: AsyncApi, sandbox_id: str, process: int | str, signal: Signal) -> bool:
    """Send a signal to the process with this pid or tag; False when there is none."""
    try:
        await api.call("DELETE", path_of(sandbox_id, "processes", str(process)), params={"signal": signal})
    except NotFoundError:
        return False
    return True


class AsyncFollowed:
    """What streams and terminals have in common. Used as a context manager it is closed at the end.

    Attributes:
        pid: of the process; 0 when it did not come to run.
        tag: its name, empty when it has none or was connected to by pid.
        missed: with replay, how many bytes of output came before those that are replayed.
        replayed: how many bytes of the output that comes were written before we connected.
        exit_code: None until the end has been read; 128 + number when a signal ended it.
        exit_signal: name of that signal, e.g. `SIGKILL`.
        out_of_memory: the sandbox's kernel killed it, or a process that it started, because memory ran out.
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
        """Send the first message and read until the process has started, or has not.

        Raises:
            NotFoundError: there is no such process.
        """
        try:
            if first_message is not None:
                await self._socket.send(first_message)
            frame = await self._next(self._api.request_timeout_s)
        except BaseException:
            await self._socket.close()
            raise
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
        """The next piece of output; None at the end, when `exit_code` is known.

        Raises:
            DeadlineExceededError: nothing came for `timeout_s`, and nothing is lost; or the process outlived its own limit
                and was killed.
            InvalidStateError: the sandbox is being paused; the process goes on when it is resumed.
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
        """Read and drop the rest of its output; returns the exit code.

        Raises:
            DeadlineExceededError: it wrote nothing for `timeout_s` and has not ended. As `read` besides.
        """
        while await self.read(timeout_s) is not None:
            pass
        assert self.exit_code is not None, "the output ends with the exit code"
        return self.exit_code

    async def signal(self, signal: Signal) -> bool:
        """Send a signal to the process and its group; False when it has ended."""
        return self.pid > 0 and await send_signal(self._api, self._sandbox_id, self.pid, signal)

    async def kill(self) -> bool:
        """Send SIGKILL; False when it has ended. The rest of its output can still be read."""
        return await self.signal("SIGKILL")

    async def close(self) -> None:
        """Leave it. What becomes of the process was said at its start. May be called twice."""
        await self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncProcessStream(AsyncFollowed):
    """A command that is followed. Iterating gives its output as it comes, until its end."""

    def __init__(self, api: AsyncApi, sandbox_id: str, socket: AsyncSocket, *, has_stdin: bool) -> None:
        super().__init__(api, sandbox_id, socket)
        self._has_stdin = has_stdin

    async def __aiter__(self) -> AsyncIterator[Output]:
        while (output := await self.read()) is not None:
            yield output

    async def send_stdin(self, data: str | bytes) -> None:
        """Write to its input; waits while too much is on the way already.

        What it does not read, because it has closed its input or has ended, is dropped.

        Raises:
            InvalidRequestError: it was started without `stdin=True`.
        """
        self._check_stdin()
        data = data.encode() if isinstance(data, str) else data
        for at in range(0, len(data), _INPUT_PIECE_B):
            if not await self._sent(data[at : at + _INPUT_PIECE_B]):
                return

    async def close_stdin(self) -> None:
        """End its input."""
        self._check_stdin()
        await self._sent(message_of(type="close_stdin"))

    async def _sent(self, message: str | bytes) -> bool:
        """Send it, unless the platform has closed the stream as it does after the end of a process: read() tells how."""
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
    """A terminal of a sandbox. Iterating gives the bytes that it shows as they come, until its end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (output := await self.read()) is not None:
            yield output.data

    async def send_input(self, data: str | bytes) -> None:
        r"""Type: `"\x03"` is Ctrl-C."""
        data = data.encode() if isinstance(data, str) else data
        for at in range(0, len(data), _INPUT_PIECE_B):
            await self._socket.send(data[at : at + _INPUT_PIECE_B])

    async def resize(self, cols: int, rows: int) -> None:
        """Change its size."""
        await self._socket.send(message_of(type="resize", cols=cols, rows=rows))


_INPUT_PIECE_B = 64 * 1024
"""Longest message of input."""
