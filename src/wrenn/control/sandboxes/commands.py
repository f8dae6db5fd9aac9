"""Programs in a sandbox, through its host's agent."""

from __future__ import annotations

import base64
import time
from typing import Final, Literal

from protobuf import Oneof

from wrenn.base.errors import InvalidRequest, NotFound, TooLarge
from wrenn.base.faults import fault_point
from wrenn.base.ids import random_hex
from wrenn.base.units import MIB
from wrenn.control.auth import Credential
from wrenn.control.sandboxes.targets import Targets
from wrenn.control.sandboxes.types import Exec
from wrenn.protocol.api import EXEC_TIMEOUT_LIMIT_S, OUTPUT_LIMIT_B
from wrenn.protocol.host import host_pb as pb

_CALL_TIMEOUT_S: Final = 20.0
_ANSWER_MARGIN_S: Final = 10.0
"""How much longer than the command's own limit the agent may take to kill it and say so."""
_PID_LIMIT: Final = 2**22
SIGNALS: Final = {signal.name: signal for signal in pb.Signal if signal}
"""By name, all that the guest agent sends."""


class Commands:
    """See the module head."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    async def run(self, credential: Credential, text_id: str, body: Exec) -> dict[str, object]:
        """Run to the end; the wire form of `ExecResult`. A cancellation breaks off the call to the host.

        Raises:
            DeadlineExceeded: it ran longer than its limit and was killed. TooLarge: it wrote too much and was killed.
        """
        # An answer that nobody waits for any more ends the command, so a day bounds only what is waited for.
        limit_s = body.timeout_sec or EXEC_TIMEOUT_LIMIT_S
        async with self._targets.opened(credential, text_id) as target:
            await fault_point("control.exec.before_rpc")
            begun = time.monotonic()
            answer = await target.host.call(
                target.host.rpc.exec,
                pb.ExecRequest(
                    sandbox_id=str(target.sandbox_id), command=_command(body), timeout_ms=limit_s * 1000
                ),
                timeout_s=limit_s + _ANSWER_MARGIN_S,
            )
        duration_ms = round((time.monotonic() - begun) * 1000)
        for stream, content in (("stdout", answer.stdout), ("stderr", answer.stderr)):
            if len(content) > OUTPUT_LIMIT_B:
                raise TooLarge(
                    f"The command wrote more than {OUTPUT_LIMIT_B // MIB} MiB to {stream}: "
                    "write it to a file and read that with files/stream/read."
                )
        stdout, stderr, encoding = _texts(answer.stdout, answer.stderr)
        return {
            "sandbox_id": str(target.sandbox_id),
            "cmd": body.cmd,
            "stdout": stdout,
            "stderr": stderr,
            "exit_code": answer.exit_code,
            "duration_ms": duration_ms,
            "encoding": encoding,
        }

    async def start(self, credential: Credential, text_id: str, body: Exec) -> dict[str, object]:
        """Start in the background; the wire form of `Started`.

        Raises:
            NotFound: no such program.
        """
        target = await self._targets.target(credential, text_id)
        tag = body.tag or f"proc-{random_hex(4)}"
        await fault_point("control.exec.before_rpc")
        started = await target.host.call(
            target.host.rpc.start_process,
            pb.StartProcessRequest(sandbox_id=str(target.sandbox_id), command=_command(body), tag=tag),
            timeout_s=_CALL_TIMEOUT_S,
        )
        return {"sandbox_id": str(target.sandbox_id), "cmd": body.cmd, "pid": started.pid, "tag": started.tag}

    async def list(self, credential: Credential, text_id: str) -> list[dict[str, object]]:
        """Living processes that were started through the API; the wire forms of `ProcessView`."""
        target = await self._targets.target(credential, text_id)
        answer = await target.host.call(
            target.host.rpc.list_processes,
            pb.ListProcessesRequest(sandbox_id=str(target.sandbox_id)),
            timeout_s=_CALL_TIMEOUT_S,
        )
        return [_process(process) for process in answer.processes]

    async def signal(self, credential: Credential, text_id: str, selector: str, signal: str) -> None:
        """Signal the process of this pid (digits) or tag.

        Raises:
            NotFound: no such living process. InvalidRequest: a signal that is not one of `SIGNALS`.
        """
        number = signal_number(signal)
        target = await self._targets.target(credential, text_id)
        request = pb.SignalProcessRequest(
            sandbox_id=str(target.sandbox_id), selector=selector_of(selector), signal=number
        )
        await target.host.call(target.host.rpc.signal_process, request, timeout_s=_CALL_TIMEOUT_S)


def signal_number(name: str) -> pb.Signal:
    """The signal of this name. Raises InvalidRequest."""
    if (number := SIGNALS.get(name)) is None:
        raise InvalidRequest(f"signal: must be one of {', '.join(SIGNALS)}.")
    return number


def selector_of(text: str) -> Oneof[Literal["pid"], int] | Oneof[Literal["tag"], str]:
    """A process by its pid (digits) or its tag. Raises NotFound: a number that no pid has."""
    if not (text.isascii() and text.isdigit()):
        return Oneof("tag", text)
    if len(text) > len(str(_PID_LIMIT)) or int(text) > _PID_LIMIT:
        raise NotFound(f"There is no process {text[:20]}.")
    return Oneof("pid", int(text))


def _command(body: Exec) -> pb.Command:
    return pb.Command(cmd=body.cmd, args=body.args, envs=body.envs, cwd=body.cwd or "", user=body.user)


def _process(process: pb.Process) -> dict[str, object]:
    fields: dict[str, object] = {"pid": process.pid, "cmd": process.cmd}
    if process.tag:
        fields["tag"] = process.tag
    if process.args:
        fields["args"] = list(process.args)
    return fields


def _texts(stdout: bytes, stderr: bytes) -> tuple[str, str, str]:
    try:
        return stdout.decode(), stderr.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(stdout).decode(), base64.b64encode(stderr).decode(), "base64"
