"""Runs `deepagents_backend.py` with a model that uses the tools that deepagents makes of a backend. Prints what it was told, and its answer."""

from collections.abc import Sequence
from typing import Any

import deepagents_backend
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult

STEPS: list[tuple[str, dict[str, Any]]] = [
    ("write_file", {"file_path": "/work/a.py", "content": "print(6 * 6)\n"}),
    ("edit_file", {"file_path": "/work/a.py", "old_string": "6 * 6", "new_string": "6 * 7"}),
    ("read_file", {"file_path": "/work/a.py"}),
    ("execute", {"command": "python3 /work/a.py"}),
    ("execute", {"command": "cat /nothing"}),
    ("ls", {"path": "/work"}),
    ("grep", {"pattern": "print", "path": "/work"}),
]


class ScriptedChatModel(GenericFakeChatModel):
    """Gives its messages in turn, whatever the tools are."""

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> "ScriptedChatModel":
        return self

    def _generate(self, messages: list[BaseMessage], *arguments: Any, **options: Any) -> ChatResult:
        if messages[-1].type == "tool":
            print(f"{messages[-1].name}: {messages[-1].text}")
        return super()._generate(messages, *arguments, **options)


calls = [
    AIMessage(content="", tool_calls=[{"name": name, "args": arguments, "id": f"call{number}"}])
    for number, (name, arguments) in enumerate(STEPS)
]
print(
    deepagents_backend.solve("Which number?", ScriptedChatModel(messages=iter([*calls, AIMessage("done")])))
)
