"""MESSAGEs: the turns that a model in Ollama begins every conversation with (api/types.go, Message)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.errors import UsageError
from ggufkit.exports.ollama import go_json

ROLES = ("system", "user", "assistant")  # parser/parser.go, isValidMessageRole


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: str
    content: str


def checked(role: str, content: str) -> Message:
    """Make a message. Raises UsageError when Ollama knows no such role."""
    if role not in ROLES:
        raise UsageError(f"a message is of {', '.join(ROLES[:-1])} or {ROLES[-1]}, not of {role!r}")
    return Message(role, content)


def encode(messages: Sequence[Message]) -> bytes:
    """Give the bytes of the blob (server/create.go, setMessages); keys that are empty are left out, as Go does."""
    return go_json.encode([{"role": message.role, "content": message.content} for message in messages])
