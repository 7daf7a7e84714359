"""What a conversation becomes: the text that a chat template writes, its tokens, and what may be wrong with them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import InputError, LlamaCppError, MissingDependencyError
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.inference.templates import ChatTemplate, Message, RoleRefusedError, merge_system
from ggufkit.inspection.gguf import TEMPLATE
from ggufkit.llamacpp.prompt_tokens import PromptToken, PromptTokens, tokens_of

CONVERSATION = (
    Message("system", "You are helpful."),
    Message("user", "Hello!"),
    Message("assistant", "Hi there."),
    Message("user", "How are you?"),
)
_ANSWER = "This is the answer 7f3a9."
_LOOKS_SPECIAL = re.compile(r"<[|\uff5c][^|\uff5c<>\s]{1,40}[|\uff5c]>|</?s>|<(?:start|end|bos|eos)[a-z_]*>|\[/?INST\]")


@dataclass(frozen=True, slots=True)
class Preview:
    """A conversation as the model would see it: `text` is empty when there is no template that works.

    `tokens` is None where llama.cpp could not be asked; `warnings` then say so. `puts_bos` says that programs put a
    beginning-of-sequence token in front unless they look first.
    """

    messages: tuple[Message, ...]
    text: str
    tokens: tuple[PromptToken, ...] | None
    puts_bos: bool
    warnings: tuple[str, ...]


def preview(path: Path, messages: Sequence[Message] = CONVERSATION, *, source: str | None = None) -> Preview:
    """Render a conversation with the chat template of a GGUF file, or with `source` in its place, and cut it up.

    A file that holds a vocabulary only will do. Whatever is wrong with the template is a warning, not an error.

    Raises:
        GgufFileError: the file is missing or malformed.
    """
    header = read_header(path)
    found = header.metadata.get(TEMPLATE)
    text = source if source is not None else found
    if not isinstance(text, str) or not text:
        return Preview(
            tuple(messages), "", None, False, ("there is no chat template: conversations cannot be written",)
        )
    warnings: list[str] = []
    try:
        template = ChatTemplate(text, bos_text=_spelled(header, "bos"), eos_text=_spelled(header, "eos"))
        messages, prompt = _rendered(template, messages, warnings)
        tail = _behind_an_answer(template)
    except InputError as error:
        return Preview(tuple(messages), "", None, False, (*warnings, f"the template cannot be rendered: {error}"))
    try:
        tokens = tokens_of(path, [prompt, tail or ""])
    except (LlamaCppError, MissingDependencyError) as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Preview(
            tuple(messages),
            prompt,
            None,
            False,
            (*warnings, f"tokens are not shown: {str(error).splitlines()[0]}{hint}"),
        )
    warnings += _about_beginning(tokens)
    warnings += _about_end(tokens, tail)
    warnings += _about_spelling(prompt, tokens.texts[0])
    return Preview(tuple(messages), prompt, tokens.texts[0], tokens.puts_bos, tuple(warnings))


def _rendered(
    template: ChatTemplate, messages: Sequence[Message], warnings: list[str]
) -> tuple[tuple[Message, ...], str]:
    try:
        return tuple(messages), template.render(messages)
    except RoleRefusedError as error:
        merged = merge_system(messages)
        if merged == list(messages):
            raise
        prompt = template.render(merged)
        warnings.append(f"system messages are put into the first question, because {error}")
        return tuple(merged), prompt


def _behind_an_answer(template: ChatTemplate) -> str | None:
    """What the template writes behind an answer; None when it does not show answers as they are."""
    messages = [Message("user", "Hello!"), Message("assistant", _ANSWER)]
    text = template.render(messages, add_generation_prompt=False)
    before, found, tail = text.rpartition(_ANSWER)
    return tail if found and before is not None else None


def _about_beginning(tokens: PromptTokens) -> list[str]:
    bos, ids = tokens.bos, [token.id for token in tokens.texts[0]]
    if bos is None:
        return []
    if ids[:2] == [bos, bos]:
        return ["double BOS: the template writes the beginning-of-sequence token twice"]
    if ids[:1] == [bos] and tokens.puts_bos:
        said = "the template writes the beginning-of-sequence token, and the vocabulary asks for another one"
        return [f"double BOS: {said}; ggufkit and llama-server leave one away, other programs may not"]
    return []


def _about_end(tokens: PromptTokens, tail: str | None) -> list[str]:
    if tail is None:
        return ["the template does not repeat what the assistant said"]
    if any(token.ends for token in tokens.texts[1]):
        return []
    written = f"what follows an answer is {tail!r}" if tail else "nothing follows an answer"
    return [f"missing EOS/EOT: {written}, and no token in it ends an answer; the model may not stop"]


def _about_spelling(prompt: str, tokens: Sequence[PromptToken]) -> list[str]:
    """Find what looks like a control token and is cut into pieces: the vocabulary does not know it."""
    single = {token.text.strip() for token in tokens}
    broken = [text for text in dict.fromkeys(_LOOKS_SPECIAL.findall(prompt)) if text not in single]
    return [f"{text} is written as ordinary text: the vocabulary has no such token" for text in broken]


def _spelled(header: GgufHeader, role: str) -> str:
    number = header.metadata.get(f"tokenizer.ggml.{role}_token_id")
    tokens = "tokenizer.ggml.tokens"
    if not isinstance(number, int) or tokens not in header.metadata.entries:
        return ""
    return header.metadata.pick(tokens, [number]).get(number, "")
