"""The chat template: our rendering of what the GGUF file holds must equal transformers' of the checkpoint's."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.evaluation.original_tokenizer import transformers_tokenizer
from ggufkit.evaluation.results import Check, Grade
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference.templates import ChatTemplate, Message, RoleRefusedError, TemplateBombError

NAME = "chat template"

_HELLO = Message("user", "Hello! What is 2 + 2?")
_ANSWER = Message("assistant", "It is 4.")
_MORE = Message("user", 'And {{ this }}, "quoted" & <tagged>?\n\n  Indented: ünï 犬 🐕  ')
_SYSTEM = Message("system", "You are terse.\nAnswer in one line.")

CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    (_HELLO,),
    (_SYSTEM, _HELLO),
    (_HELLO, _ANSWER, _MORE),
    (_SYSTEM, _HELLO, _ANSWER, _MORE, Message("assistant", "Fine."), Message("user", "Thanks.")),
    (_HELLO, _ANSWER),
    (_HELLO, _MORE),
)


def check_chat_template(checkpoint: Path, parts: Sequence[GgufHeader]) -> Check:
    """Render conversations with and without the prompt for an answer; what one side refuses, the other must refuse."""
    try:
        import jinja2  # noqa: F401 - transformers' own need for it is found out late, and told unclearly

        original = transformers_tokenizer(checkpoint)
    except ImportError as error:
        return Check(NAME, Grade.SKIPPED, f"{error.name} is not installed: pip install 'ggufkit[hf]'")
    except Exception as error:  # noqa: BLE001 - transformers raises whatever went wrong inside it
        return Check(NAME, Grade.SKIPPED, f"transformers cannot open the tokenizer: {_line(error)}")
    source = parts[0].metadata.get("tokenizer.chat_template")
    wanted = _default_template(original)
    if not source or not wanted:
        if not source and not wanted:
            return Check(NAME, Grade.EXACT, "the checkpoint has none, nor has the file")
        has, lacks = ("checkpoint", "file") if wanted else ("file", "checkpoint")
        return Check(NAME, Grade.FAILED, f"the {has} has a chat template, the {lacks} has none")
    try:
        template = ChatTemplate(str(source), bos_text=_token(parts[0], "bos"), eos_text=_token(parts[0], "eos"))
    except InputError as error:
        return Check(NAME, Grade.FAILED, str(error))
    if bomb := _bomb(wanted, original.special_tokens_map):
        return Check(NAME, Grade.FAILED, f"of the checkpoint: {bomb}")
    faults, refused = [], 0
    for conversation in CONVERSATIONS:
        for prompt in (True, False):
            theirs = _by_transformers(original, conversation, prompt)
            ours = _by_us(template, conversation, prompt)
            refused += theirs is None
            if theirs != ours:
                roles = " ".join(message.role for message in conversation)
                faults.append(f"{roles}{' + prompt' if prompt else ''}: {_difference(ours, theirs)}")
    total = 2 * len(CONVERSATIONS)
    figures = {"renderings": total, "refused": refused, "different": len(faults)}
    if faults:
        summary = f"{len(faults)} of {total} renderings differ from transformers'"
        return Check(NAME, Grade.FAILED, summary, tuple(faults[:4]), figures)
    summary = f"{total - refused} renderings equal transformers'"
    if refused:
        summary += f", {refused} are refused by both"
    return Check(NAME, Grade.EXACT, summary, (), figures)


def _bomb(source: str, special: Mapping[str, Any]) -> str | None:
    """Say why transformers must not render a template: it has no limits of time and memory."""
    try:
        template = ChatTemplate(source)
        for conversation in CONVERSATIONS:
            for prompt in (True, False):
                with contextlib.suppress(RoleRefusedError):
                    template.render(conversation, add_generation_prompt=prompt, variables=special)
    except TemplateBombError as error:
        return str(error)
    except InputError:
        return None  # it merely fails
    return None


def _default_template(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template else None


def _token(header: GgufHeader, role: str) -> str:
    tokens, index = (
        header.metadata.get("tokenizer.ggml.tokens"),
        header.metadata.get(f"tokenizer.ggml.{role}_token_id"),
    )
    if isinstance(tokens, list) and isinstance(index, int) and 0 <= index < len(tokens):
        return str(tokens[index])
    return ""


def _by_transformers(tokenizer: Any, conversation: Sequence[Message], prompt: bool) -> str | None:
    messages = [{"role": message.role, "content": message.content} for message in conversation]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    except Exception:  # noqa: BLE001 - what a template raises, whatever it is, is a refusal
        return None


def _by_us(template: ChatTemplate, conversation: Sequence[Message], prompt: bool) -> str | None:
    try:
        return template.render(conversation, add_generation_prompt=prompt)
    except InputError:
        return None


def _difference(ours: str | None, theirs: str | None) -> str:
    if ours is None or theirs is None:
        return f"{'we refuse' if ours is None else 'transformers refuses'} it"
    at = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
    return f"{ours[at : at + 30]!r}, expected {theirs[at : at + 30]!r} (from character {at})"


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
