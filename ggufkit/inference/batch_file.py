"""A line of a file of prompts: `{"prompt": ...}` or `{"messages": [...]}`, with what is to be different for it.

    {"id": 7, "prompt": "Translate: good morning", "max_tokens": 20, "temperature": 0}
    {"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}], "json_schema": {"type": "string"}}

`id`, `custom_id` and `metadata` come back with the answer. Names that nobody knows are refused: they are spelling
mistakes that would go unnoticed in ten thousand answers.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast, get_args

from ggufkit.errors import InputError, UsageError
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.templates import Message, Role
from ggufkit.llamacpp import json_schema

CARRIED = ("id", "custom_id", "metadata")
_OWN = ("prompt", "messages", "system", "max_tokens", "stop", "grammar", "json_schema")
_NUMBERS = {
    option.name: option.type
    for option in dataclasses.fields(SamplingOptions)
    if option.type in {int, float, bool, int | None}
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One prompt of a file; what is None or absent is as for all.

    Attributes:
        carried: what comes back with the answer.
        prompt: the text to continue or to answer; None when there are `messages`.
        messages: a conversation that the model is to continue; empty when there is a `prompt`.
        system: a system prompt, in place of the one for all.
        sampling: keyword arguments of `SamplingOptions`.
    """

    carried: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    system: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


def parse(line: bytes) -> BatchLine:
    """Read a line.

    Raises:
        InputError: it is not JSON, or says what makes no sense.
    """
    values = _values(line)
    if unknown := sorted(values.keys() - {*CARRIED, *_OWN, *_NUMBERS}):
        names = (*_OWN, *CARRIED, *_NUMBERS)
        near = get_close_matches(unknown[0], names, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
        raise InputError(f"{unknown[0]!r} is not known; {meant}")
    given = {name: value for name, value in values.items() if value is not None}  # null: not given
    messages, prompt = _messages(given.get("messages")), given.get("prompt")
    if bool(messages) == (prompt is not None):
        raise InputError("there must be either a prompt or messages")
    if prompt is not None and not isinstance(prompt, str):
        raise InputError("prompt must be a text")
    system = given.get("system")
    if system is not None and (not isinstance(system, str) or (messages and messages[0].role == "system")):
        raise InputError("system must be a text, and messages must not begin with another one")
    return BatchLine(
        carried={name: values[name] for name in CARRIED if name in values},
        prompt=prompt,
        messages=messages,
        system=system,
        max_tokens=_max_tokens(given.get("max_tokens")),
        stop=_stop(given.get("stop")),
        sampling=_sampling(given),
    )


def carried(line: bytes) -> dict[str, Any]:
    """Return what comes back with the answer of a line, of one that was refused too; nothing when it is no JSON."""
    try:
        values = _values(line)
    except InputError:
        return {}
    return {name: values[name] for name in CARRIED if name in values}


def _values(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise InputError("it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError('it is not a JSON object such as {"prompt": "..."}')
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")  # Python takes it, and would write it into the answers


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits} is too large a number")
    return number


def _messages(value: Any) -> tuple[Message, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise InputError("messages must be a list of at least one message")
    return tuple(_message(at, each) for at, each in enumerate(value, 1))


def _message(at: int, value: Any) -> Message:
    roles = get_args(Role)
    if not isinstance(value, dict) or value.get("role") not in roles:
        raise InputError(f"message {at} must be an object with a role of {', '.join(roles)}")
    content = value.get("content")
    if isinstance(content, list):  # as OpenAI's clients write it
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise InputError(f"message {at} must have a text as its content")
    if extra := sorted(value.keys() - {"role", "content"}):
        raise InputError(f"message {at}: {extra[0]!r} is not known")
    return Message(cast("Role", value["role"]), content)


def _max_tokens(value: Any) -> int | None:
    if value is None:
        return None
    value = _whole(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError("max_tokens must be a whole number of 1 or more")
    return value


def _whole(value: Any) -> Any:
    """Take 40.0 for 40: that is how tables with gaps in a column write their whole numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _stop(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise InputError("stop must be a text or a list of texts, none of them empty")
    return tuple(texts)


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, kind in _NUMBERS.items():
        if (value := given.get(name)) is None:
            continue
        if kind is bool:
            wanted, sound = "true or false", isinstance(value, bool)
        elif kind is float:
            wanted, sound = "a number", isinstance(value, int | float) and not isinstance(value, bool)
        else:
            value = _whole(value)
            wanted, sound = "a whole number", isinstance(value, int) and not isinstance(value, bool)
        if not sound:
            raise InputError(f"{name} must be {wanted}, not {value!r}")
        chosen[name] = value
    grammar, schema = given.get("grammar"), given.get("json_schema")
    if grammar is not None and schema is not None:
        raise InputError("grammar and json_schema cannot be given together")
    if grammar is not None:
        if not isinstance(grammar, str):
            raise InputError("grammar must be a text")
        chosen["grammar"] = grammar
    if schema is not None:
        chosen["grammar"] = json_schema.grammar(schema if isinstance(schema, str) else json.dumps(schema))
    try:
        SamplingOptions(**chosen)
    except UsageError as error:
        raise InputError(str(error)) from None
    return chosen
