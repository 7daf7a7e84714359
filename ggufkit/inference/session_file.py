"""A chat kept in a file: JSON with a schema version, written whole or not at all, and not believed blindly.

{"schema_version": 1, "kind": "ggufkit chat", "model": {"file": …, "description": …},
 "system": …, "turns": [{"role": "user", "content": …}, {"role": "assistant", "content": …, "reasoning": …}],
 "forgotten": 0, "settings": {"sampling": {"temperature": 0.8, …}, "max_tokens": null, "reasoning": "auto", …}}
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError, UsageError
from ggufkit.files import check_output, write_atomically
from ggufkit.inference.conversation import Conversation
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.reasoning import Reasoning
from ggufkit.inference.session import ChatSession, WhenFull
from ggufkit.inference.templates import Message

SCHEMA_VERSION = 1
_KIND = "ggufkit chat"
_SAVES_ONE = "/save FILE in a chat writes one"
_LARGEST = 64 << 20  # bytes; a context of a million tokens is a tenth of that
_NOT_KEPT = {"grammar", "logit_bias"}  # they belong to one question, or to one vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChat:
    """What a file holds.

    Attributes:
        conversation: what was said.
        model: the file name of the model.
        description: what llama.cpp calls that model.
        sampling: sampling options by name.
        max_tokens: most tokens of a reply.
        reasoning: whether the model should think first.
        when_full: what happens when the context is full.
    """

    conversation: Conversation
    model: str = ""
    description: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    reasoning: Reasoning = Reasoning.AUTO
    when_full: WhenFull = WhenFull.DROP

    def restore(self, session: ChatSession) -> None:
        """Go on with this chat, its settings included, in a session."""
        session.sampling = replace(session.sampling or session.engine.sampling_defaults(), **self.sampling)
        session.max_tokens = self.max_tokens
        session.reasoning = self.reasoning
        session.when_full = self.when_full
        session.restore(self.conversation)


def save(session: ChatSession, path: Path) -> None:
    """Write the chat of a session.

    Raises:
        OutputError: the file cannot be written.
    """
    check_output(path, inputs=[session.engine.path])
    sampling = session.sampling or session.engine.sampling_defaults()
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": _KIND,
        "model": {"file": session.engine.path.name, "description": session.engine.description},
        "system": session.conversation.system,
        "turns": [
            {name: value for name, value in asdict(turn).items() if value or name == "content"}
            for turn in session.conversation.turns
        ],
        "forgotten": session.conversation.forgotten,
        "settings": {
            "sampling": {name: value for name, value in asdict(sampling).items() if name not in _NOT_KEPT},
            "max_tokens": session.max_tokens,
            "reasoning": session.reasoning,
            "when_full": session.when_full,
        },
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    write_atomically(path, text.encode("utf-8", "replace") + b"\n")


def load(path: Path) -> SavedChat:
    """Read the chat in a file.

    Raises:
        InputError: there is none, it is of a later schema, or it holds what cannot be.
    """
    document = _read(path)
    kind, version = document.get("kind"), document.get("schema_version")
    if kind != _KIND or not isinstance(version, int):
        raise InputError(f"{path} is JSON, but not a chat that ggufkit saved", hint=_SAVES_ONE)
    if version > SCHEMA_VERSION:
        raise InputError(f"{path} was saved by a later ggufkit (schema {version}; this one knows {SCHEMA_VERSION})")
    try:
        settings = _typed(document, "settings", dict, {})
        model = _typed(document, "model", dict, {})
        turns = tuple(_message(turn) for turn in _typed(document, "turns", list, []))
        sampling = _typed(settings, "sampling", dict, {})
        known = {option.name for option in fields(SamplingOptions)} - _NOT_KEPT
        if unknown := sampling.keys() - known:
            raise ValueError(f"sampling has no option {', '.join(sorted(unknown))}")
        SamplingOptions(**sampling)
        chat = SavedChat(
            conversation=Conversation(_typed(document, "system", str, None), turns),
            model=_typed(model, "file", str, ""),
            description=_typed(model, "description", str, ""),
            sampling=sampling,
            max_tokens=_typed(settings, "max_tokens", int, None),
            reasoning=Reasoning(settings.get("reasoning", "auto")),
            when_full=WhenFull(settings.get("when_full", "drop")),
        )
        if chat.max_tokens is not None and chat.max_tokens < 1:
            raise ValueError("max_tokens must be positive")
        forgotten: int = _typed(document, "forgotten", int, 0)
        return replace(chat, conversation=chat.conversation.forgetting(forgotten))
    except (ValueError, TypeError, UsageError) as error:
        raise InputError(f"{path} is not a chat that can be gone on with: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} has more than {_LARGEST >> 20} MiB: no chat is as long as that")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON in UTF-8: {error}", hint=_SAVES_ONE) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is JSON, but not a chat that ggufkit saved", hint=_SAVES_ONE)
    return document


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in {"user", "assistant"}:
        raise ValueError("a turn must have the role user or assistant")
    return Message(turn["role"], _typed(turn, "content", str, ""), _typed(turn, "reasoning", str, ""))


def _typed(values: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} must be of type {kind.__name__}")
    return value
