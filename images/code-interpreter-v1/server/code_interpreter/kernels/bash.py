"""The Bash kernel. A command that fails is no error of the run, as in a shell; `exit` ends the shell, and the next run has a new one."""

from __future__ import annotations

from pathlib import Path

from ipykernel.kernelapp import IPKernelApp

from code_interpreter.kernels.script import ScriptKernel


class BashKernel(ScriptKernel):
    """Runs code in one shell."""

    language = "bash"
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}  # noqa: RUF012
    argv = ("bash", "--norc", str(Path(__file__).with_name("bash_loop.sh")))

    def encoded(self, code: str, sandbox: dict[str, str], call: dict[str, str]) -> bytes:
        """Return numbers and texts, each ended by NUL, which no variable and no program can contain."""
        parts = [str(len(sandbox))]
        parts += [f"{name}={value}" for name, value in sandbox.items()]
        parts += [str(len(call)), *(f"{name}={value}" for name, value in call.items())]
        parts.append(code.replace("\0", ""))
        return b"".join(part.encode(errors="surrogateescape") + b"\0" for part in parts)


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=BashKernel)
