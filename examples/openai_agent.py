"""Tools for the OpenAI Agents SDK that work in a sandbox.

Usage: OPENAI_API_KEY=… python openai_agent.py "Which is the 1000th prime number?"
"""

from __future__ import annotations

import asyncio
import sys

from agents import Agent, Model, RunContextWrapper, Runner, function_tool

from wrenn import AsyncSandbox, CommandTimeoutError

MAX_OUTPUT = 20_000


@function_tool
async def run(context: RunContextWrapper[AsyncSandbox], command: str) -> str:
    """Run a command line in bash on a Linux machine that is yours, as root, and return its output.

    Args:
        command: the command line.
    """
    try:
        result = await context.context.commands.run(command, timeout_s=120)
    except CommandTimeoutError as error:
        result = error.result
    output = (result.stdout + result.stderr)[-MAX_OUTPUT:]
    ending = "killed after 120 s" if result.timed_out else f"exit code {result.exit_code}"
    return f"{output}\n[{ending}]"


@function_tool
async def write_file(context: RunContextWrapper[AsyncSandbox], path: str, text: str) -> str:
    """Write a text file. Missing directories are created.

    Args:
        path: absolute path.
        text: the file's new content.
    """
    await context.context.files.write(path, text)
    return f"wrote {path}"


def make_agent(model: str | Model | None = None) -> Agent[AsyncSandbox]:
    """Return an agent whose runs have a sandbox as their context."""
    return Agent(
        name="programmer",
        instructions="Solve the task with the machine that you have. Check the result before you answer.",
        tools=[run, write_file],
        model=model,
    )


async def solve(task: str, model: str | Model | None = None) -> str:
    """Let the model work on the task in a sandbox of its own, and return its answer."""
    async with await AsyncSandbox.create() as sandbox:
        result = await Runner.run(make_agent(model), task, context=sandbox, max_turns=30)
        return str(result.final_output)


if __name__ == "__main__":
    print(asyncio.run(solve(" ".join(sys.argv[1:]) or "Which is the 1000th prime number?")))
