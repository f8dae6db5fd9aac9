"""An agent's loop with Anthropic's tool use: the model writes files and runs commands in a sandbox.

Usage: ANTHROPIC_API_KEY=… python anthropic_agent.py "Which is the 1000th prime number?"
"""

from __future__ import annotations

import sys

import anthropic
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam

from wrenn import CommandTimeoutError, Sandbox, WrennError

MODEL = "claude-sonnet-4-5"
MAX_STEPS = 30
MAX_OUTPUT = 20_000
TOOLS: list[ToolParam] = [
    {
        "name": "run",
        "description": "Run a command line in bash on a Linux machine that is yours, as root, and return its output.",
        "input_schema": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
    {
        "name": "write_file",
        "description": "Write a text file. Missing directories are created.",
        "input_schema": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
            "required": ["path", "text"],
        },
    },
]


def run(sandbox: Sandbox, command: str) -> str:
    """Run a command; also a failed one has a result that the model can use."""
    try:
        result = sandbox.commands.run(command, timeout_s=120)
    except CommandTimeoutError as error:
        result = error.result
    output = (result.stdout + result.stderr)[-MAX_OUTPUT:]
    ending = "killed after 120 s" if result.timed_out else f"exit code {result.exit_code}"
    return f"{output}\n[{ending}]"


def write_file(sandbox: Sandbox, path: str, text: str) -> str:
    """Write a file."""
    sandbox.files.write(path, text)
    return f"wrote {path}"


def use_tool(sandbox: Sandbox, name: str, arguments: dict[str, str]) -> tuple[str, bool]:
    """Return the tool's result, and whether it is an error."""
    try:
        if name == "run":
            return run(sandbox, arguments["command"]), False
        if name == "write_file":
            return write_file(sandbox, arguments["path"], arguments["text"]), False
        return f"There is no tool {name}.", True
    except KeyError as error:
        return f"The argument {error} is missing.", True
    except WrennError as error:
        return str(error), True


def solve(client: anthropic.Anthropic, sandbox: Sandbox, task: str) -> str:
    """Let the model work on the task until it answers without using a tool."""
    messages: list[MessageParam] = [{"role": "user", "content": task}]
    for _ in range(MAX_STEPS):
        answer = client.messages.create(model=MODEL, max_tokens=4096, tools=TOOLS, messages=messages)
        messages.append({"role": "assistant", "content": answer.content})
        results: list[ToolResultBlockParam] = []
        for block in answer.content:
            if block.type == "tool_use":
                print(f"→ {block.name} {block.input}", file=sys.stderr)
                text, is_error = use_tool(sandbox, block.name, dict(block.input))
                results.append(
                    {"type": "tool_result", "tool_use_id": block.id, "content": text, "is_error": is_error}
                )
        if not results:
            return "".join(block.text for block in answer.content if block.type == "text")
        messages.append({"role": "user", "content": results})
    return f"Not solved in {MAX_STEPS} steps."


def main() -> None:
    """Solve the task of the command line in a sandbox of its own."""
    task = " ".join(sys.argv[1:]) or "Which is the 1000th prime number? Write and run a program."
    with Sandbox.create() as sandbox:
        print(solve(anthropic.Anthropic(), sandbox, task))


if __name__ == "__main__":
    main()
