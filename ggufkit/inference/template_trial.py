"""A chat template tried out before it is left to llama-server, whose own Jinja has no limits of time or memory."""

from collections.abc import Mapping
from typing import Any

from ggufkit.errors import InputError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference.templates import ChatTemplate, Message, TemplateBombError

_KEY = "tokenizer.chat_template"
_USER, _ANSWER = Message("user", "Hello!"), Message("assistant", "Good day.")
_CONVERSATIONS = ((_USER,), (Message("system", "Be brief."), _USER), (_USER, _ANSWER, _USER))
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_FUNCTION = {"name": "weather", "description": "Tells the weather.", "parameters": _PARAMETERS}
_TOOLS = [{"type": "function", "function": _FUNCTION}]


def refuse_bombs(header: GgufHeader, source: str | None, variables: Mapping[str, Any]) -> None:
    """Render a few conversations with the templates of a file, or with `source` in their place.

    Templates that merely fail pass: llama-server says so itself, or knows more than our Jinja.

    Raises:
        TemplateBombError: a template wants more time, memory or depth than any honest one needs.
    """
    found = [source] if source is not None else [header.metadata.get(key) for key in (_KEY, f"{_KEY}.tool_use")]
    for text in found:
        if isinstance(text, str) and text:
            _try(text, variables)


def _try(source: str, variables: Mapping[str, Any]) -> None:
    try:
        template = ChatTemplate(source, bos_text="<s>", eos_text="</s>")
    except TemplateBombError:
        raise
    except InputError:
        return
    for messages in _CONVERSATIONS:
        for tools in (None, _TOOLS):
            try:
                template.render(messages, variables={**variables, "tools": tools})
                template.render(messages, variables={**variables, "tools": tools}, add_generation_prompt=False)
            except TemplateBombError:
                raise
            except InputError:
                continue
