"""`wrenn completion`: shell completion of commands and options."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

_VARIABLE = "_WRENN_COMPLETE"


def init() -> None:
    """Handle a completion request from a shell, if this process was started for one."""
    if _VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell.")],
) -> None:
    """Print a script that completes commands and options in a shell.

    bash: `eval "$(wrenn completion bash)"` in ~/.bashrc; zsh: the same with zsh in ~/.zshrc; fish: `wrenn completion fish > ~/.config/fish/completions/wrenn.fish`.
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="wrenn", complete_var=_VARIABLE, shell=shell)
    sys.stdout.write(f"{script}\n")
