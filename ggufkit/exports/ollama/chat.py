"""What Ollama makes of a conversation with a Go template (template/template.go: Execute and collate)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ggufkit.exports.go_template import Record, Template
from ggufkit.exports.ollama import go_json
from ggufkit.exports.ollama.messages import Message

_ROLES_OF_TOOLS = {"tool"}


def _date(days: int, *_: Any) -> str:
    return (datetime.now().astimezone() + timedelta(days=days)).strftime("%Y-%m-%d")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": go_json.marshal,
    "currentDate": functools.partial(_date, 0),
    "yesterdayDate": functools.partial(_date, -1),
    "toTypeScriptType": lambda _: "any",  # of a tool's parameter: no chat of ours has tools
}


@functools.lru_cache(maxsize=64)
def parsed(source: str) -> Template:
    """Parse a template with the functions that Ollama adds. Raises GoTemplateError."""
    return Template(source, FUNCTIONS)


def render(source: str, messages: Sequence[Message], values: Mapping[str, Any] | None = None) -> str:
    """Render a template that ranges over `.Messages`, as Ollama's server does for a chat.

    Raises:
        GoTemplateError: the template is not valid, or fails.
    """
    system, collated = collate(messages)
    data = {
        "System": system,
        "Messages": collated,
        "Tools": [],
        "Response": "",
        "Think": False,
        "IsThinkSet": False,
        "Query": "",
        "Document": "",
        "Instruction": "",
        **(values or {}),
    }
    return parsed(source).render(data)


def collate(messages: Sequence[Message]) -> tuple[str, list[Record]]:
    """Join the system messages to one text, and neighbours of one role to one message, as Ollama does."""
    collated: list[Record] = []
    for message in messages:
        if collated and collated[-1]["Role"] == message.role and message.role not in _ROLES_OF_TOOLS:
            collated[-1]["Content"] += f"\n\n{message.content}"
        else:
            collated.append(
                Record(
                    Role=message.role,
                    Content=message.content,
                    Thinking="",
                    Images=[],
                    ToolCalls=[],
                    ToolName="",
                    ToolCallID="",
                )
            )
    return "\n\n".join(message.content for message in messages if message.role == "system"), collated
