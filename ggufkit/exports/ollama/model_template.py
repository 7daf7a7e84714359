"""The Go template for a GGUF file: its own Jinja template and its special tokens, looked at and converted."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ggufkit.errors import InputError
from ggufkit.exports.ollama.chat_slots import Jinja
from ggufkit.exports.ollama.go_chat_template import GoChatTemplate, convert
from ggufkit.exports.ollama.messages import Message
from ggufkit.gguf_file.reader import GgufHeader

_KEY = "tokenizer.chat_template"
# What llama.cpp (src/llama-vocab.cpp, llama_vocab::impl::load) takes for granted when the file does not say.
_BOS_BY_TOKENIZER = {"llama", "bert"}
_BOS_BY_SPLITTING = {
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    *("tekken", "chameleon"),
}


def go_template_of(header: GgufHeader) -> GoChatTemplate:
    """Convert the chat template of a model.

    Raises:
        InputError: it has none, or none that a Go template can do, naming the first difference.
    """
    from ggufkit.inference.templates import ChatTemplate, RoleRefusedError
    from ggufkit.inference.templates import Message as Turn

    source = header.metadata.get(_KEY)
    if not isinstance(source, str) or not source:
        raise InputError(f"{header.path} has no chat template to convert", hint="leave out --template go")
    bos, eos = token_text(header, "bos_token_id"), token_text(header, "eos_token_id")
    template = ChatTemplate(source, bos_text=bos, eos_text=eos)

    def rendering(**variables: Any) -> Jinja:
        def jinja(messages: Sequence[Message]) -> str | None:
            turns = [Turn(message.role, message.content) for message in messages]  # type: ignore[arg-type]  # checked
            try:
                return template.render(turns, variables=variables)
            except RoleRefusedError:
                return None

        return jinja

    long_ago = datetime(2001, 2, 3)  # noqa: DTZ001 - any other day, of which only the writing counts
    found = convert(
        rendering(),
        bos=bos if adds_bos(header) else "",
        eos=eos,
        other_day=rendering(strftime_now=lambda pattern: long_ago.strftime(pattern)),
    )
    if "tools" in source:
        found = replace(found, warnings=(*found.warnings, "the chat template knows tools, the Go template does not"))
    return found


def token_text(header: GgufHeader, name: str) -> str:
    """Spell one of the special tokens, such as `bos_token_id`; empty when there is none."""
    number = header.metadata.get(f"tokenizer.ggml.{name}")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    known = isinstance(tokens, list) and isinstance(number, int) and 0 <= number < len(tokens)
    return str(tokens[number]) if known and isinstance(tokens, list) and isinstance(number, int) else ""


def adds_bos(header: GgufHeader) -> bool:
    """Tell whether llama.cpp puts the first token before a text by itself, so that a template must not write it."""
    said = header.metadata.get("tokenizer.ggml.add_bos_token")
    if isinstance(said, bool):
        return said
    tokenizer, splitting = (header.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    return tokenizer in _BOS_BY_TOKENIZER or splitting in _BOS_BY_SPLITTING
