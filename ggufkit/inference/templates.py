"""From messages to tokens: the model's own chat template, with what people write kept apart from what it commands."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ggufkit.errors import InputError, UnsafeError
from ggufkit.inference.loaded_model import LoadedModel

Role = Literal["system", "user", "assistant"]

_ZERO_WIDTH_SPACE = "\u200b"
_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")
_MARKERS = "\ufdd0\ufdd1\ufdd2\ufdd3\ufdd4\ufdd5"  # noncharacters: no text holds them, and no template knows them


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `reasoning` is what the model thought before it said the content."""

    role: Role
    content: str
    reasoning: str = ""

    def as_template_value(self) -> dict[str, str]:
        """Return what a template sees; templates look for reasoning under one of three names."""
        thoughts = dict.fromkeys(_REASONING_NAMES, self.reasoning) if self.reasoning else {}
        return {"role": self.role, "content": self.content, **thoughts}


class RoleRefusedError(InputError):
    """The template does not take these messages, such as a system message or two user turns in a row."""


class TemplateBombError(InputError):
    """The template wants more time, memory or depth than any honest one needs."""


class ChatTemplate:
    """A Jinja chat template, compiled once. All its renderings together have a few seconds to spare, not each."""

    def __init__(self, source: str, *, bos_text: str = "", eos_text: str = "") -> None:
        """Compile a template; `bos_text` and `eos_text` are the spellings of those tokens, empty when there are none.

        Raises:
            TemplateBombError: it is too long, or nested too deeply.
            InputError: it is not valid.
        """
        from jinja2 import TemplateError

        from ggufkit.inference.template_sandbox import LARGEST_SOURCE, SECONDS, ChatEnvironment, TooMuchError

        if len(source) > LARGEST_SOURCE:
            raise TemplateBombError(f"the chat template has {len(source):,} characters, more than {LARGEST_SOURCE:,}")
        self.source = source
        self.bos_text = bos_text
        self.eos_text = eos_text
        self._environment = ChatEnvironment()
        self._seconds_left = SECONDS
        try:
            self._template = self._environment.from_string(source)
        except (RecursionError, MemoryError, TooMuchError) as error:
            raise TemplateBombError(
                f"the chat template is not valid: {_reason(error)}", hint=_OTHER_TEMPLATE
            ) from error
        except (TemplateError, SyntaxError, ValueError) as error:
            raise InputError(f"the chat template is not valid: {_reason(error)}", hint=_OTHER_TEMPLATE) from error

    @classmethod
    def of(cls, engine: LoadedModel, source: str | None = None) -> "ChatTemplate":
        """Return the template of a model, or `source` in its place.

        Raises:
            InputError: the model has none, or it is not valid.
        """
        source = source if source is not None else engine.metadata("tokenizer.chat_template")
        if not source:
            raise InputError(f"{engine.path} has no chat template: it was not made for chatting", hint=_OTHER_TEMPLATE)
        bos, eos = engine.bos, engine.eos
        return cls(
            source,
            bos_text="" if bos is None else engine.token_text(bos),
            eos_text="" if eos is None else engine.token_text(eos),
        )

    def variables(self) -> set[str]:
        """Return the names that the template may read from outside, whether it sets them itself first or not."""
        from jinja2 import meta

        return meta.find_undeclared_variables(self._environment.parse(self.source))

    def compared_with(self, variable: str) -> list[str]:
        """Return the texts that the template compares a variable with, in their order: its possible values."""
        from jinja2 import nodes

        tree = self._environment.parse(self.source)
        compared = [
            comparison
            for comparison in tree.find_all(nodes.Compare)
            if any(name.name == variable for name in comparison.expr.find_all(nodes.Name))
            or (isinstance(comparison.expr, nodes.Name) and comparison.expr.name == variable)
        ]
        found = (text.value for comparison in compared for text in comparison.find_all(nodes.Const))
        return list(dict.fromkeys(text for text in found if isinstance(text, str)))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation as the model was trained to see it.

        `variables` are more values for the template, such as `enable_thinking`.

        Raises:
            RoleRefusedError: the template does not take these messages.
            TemplateBombError: it wants more time or memory than it may have.
            InputError: it fails.
        """
        from ggufkit.inference.template_sandbox import (
            LARGEST_VALUE,
            UNNOTICED,
            RefusedByTemplateError,
            TooMuchError,
            limited_memory,
        )

        tokens = {name: text for name, text in (("bos_token", self.bos_text), ("eos_token", self.eos_text)) if text}
        values = {
            **tokens,
            "tools": None,
            "documents": None,
            **(variables or {}),
            "messages": [message.as_template_value() for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        parts: list[str] = []
        size = 0
        started = time.thread_time()
        self._environment.deadline = started + max(self._seconds_left, UNNOTICED)
        try:
            with limited_memory():
                for part in self._template.generate(values):
                    parts.append(part)
                    size += len(part)
                    self._environment.tick()
                    if size > LARGEST_VALUE:
                        raise TooMuchError(f"it writes more than {LARGEST_VALUE >> 20} million characters")
                return "".join(parts)
        except RefusedByTemplateError as error:
            raise RoleRefusedError(f"the chat template refuses the conversation: {_reason(error)}") from error
        except (TooMuchError, MemoryError, RecursionError) as error:
            raise TemplateBombError(f"the chat template fails: {_reason(error)}", hint=_OTHER_TEMPLATE) from error
        except Exception as error:
            raise InputError(f"the chat template fails: {_reason(error)}", hint=_OTHER_TEMPLATE) from error
        finally:
            self._seconds_left -= max(0.0, time.thread_time() - started - UNNOTICED)

    def tokenize(
        self,
        engine: LoadedModel,
        messages: Sequence[Message],
        *,
        variables: Mapping[str, Any] | None = None,
        prefill: str = "",
    ) -> list[int]:
        """Return the prompt for the next reply, as token ids; `prefill` is the beginning of the reply, as if written.

        The template's special tokens are parsed; text in a message that is spelled like a control token stays text. A
        beginning-of-sequence token is put in front when the model wants one and the template wrote none.

        Raises:
            RoleRefusedError: the template does not take these messages.
            UnsafeError: text of a message would become a control token, whatever is tried.
            InputError: the template fails.
        """
        written = [text for message in messages for text in (message.content, message.reasoning) if text]
        spellings = {spelling for text in written for spelling in _control_spellings(engine, text)}
        if spellings:
            tokens = self._tokenize_guarded(engine, messages, spellings, variables)
            tokens += engine.tokenize(prefill, parse_special=True) if prefill else []
        else:
            tokens = engine.tokenize(self.render(messages, variables=variables) + prefill, parse_special=True)
        if engine.wants_bos and engine.bos is not None and tokens[:1] != [engine.bos]:
            tokens.insert(0, engine.bos)
        return tokens

    def _tokenize_guarded(
        self,
        engine: LoadedModel,
        messages: Sequence[Message],
        spellings: set[str],
        variables: Mapping[str, Any] | None,
    ) -> list[int]:
        """Tokenize messages that hold control tokens as text: mark these, render, tokenize what is marked as text.

        The template's own control tokens are known from rendering harmless messages of the same shape; if marking
        disturbs the template so that others come out, the spellings are broken up by an invisible character.
        """
        pattern = _alternatives(spellings)
        harmless = self.render(_changed(messages, pattern, lambda text: "x" * len(text)), variables=variables)
        wanted = _controls(engine, engine.tokenize(harmless, parse_special=True))
        taken = self.source + "".join(message.content + message.reasoning for message in messages)
        free = [marker for marker in _MARKERS if marker not in taken]
        if len(free) >= 2:
            left, right = free[:2]
            marked = self.render(_changed(messages, pattern, lambda text: left + text + right), variables=variables)
            tokens = _tokenize_marked(engine, marked, pattern, left, right)
            if _controls(engine, tokens) == wanted:
                return tokens
        broken = _changed(messages, pattern, lambda text: text[0] + _ZERO_WIDTH_SPACE + text[1:])
        tokens = engine.tokenize(self.render(broken, variables=variables), parse_special=True)
        if _controls(engine, tokens) != wanted:
            raise UnsafeError("the conversation holds text that this chat template turns into control tokens")
        return tokens


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """Put a leading system message into the first user message, for templates without that role."""
    if len(messages) < 2 or messages[0].role != "system":
        return list(messages)
    system, first, *rest = messages
    return [replace(first, content=f"{system.content}\n\n{first.content}"), *rest]


_OTHER_TEMPLATE = "use another template with --chat-template FILE"


def _control_spellings(engine: LoadedModel, text: str) -> set[str]:
    """Return the control tokens that a text spells."""
    tokens = engine.tokenize(text, parse_special=True)
    return {engine.token_text(token) for token in _controls(engine, tokens)}


def _controls(engine: LoadedModel, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if engine.is_control(token)]


def _alternatives(spellings: set[str]) -> re.Pattern[str]:
    """Match any of the spellings, the longest first, as llama.cpp does."""
    return re.compile("|".join(re.escape(text) for text in sorted(spellings, key=lambda text: (-len(text), text))))


def _changed(messages: Sequence[Message], pattern: re.Pattern[str], change: Any) -> list[Message]:
    def changed(text: str) -> str:
        return pattern.sub(lambda found: str(change(found[0])), text)

    return [
        replace(message, content=changed(message.content), reasoning=changed(message.reasoning)) for message in messages
    ]


def _tokenize_marked(engine: LoadedModel, text: str, pattern: re.Pattern[str], left: str, right: str) -> list[int]:
    """Split a text at its control tokens, but for the marked ones, and tokenize what is between as plain text.

    This is what llama.cpp does with the whole text, so where nothing is marked the tokens are the same.
    """
    marked = re.compile(f"{left}(?:{pattern.pattern}){right}?|(?:{pattern.pattern}){right}")
    controls = engine.control_tokens()
    special = _alternatives(set(controls)) if controls else re.compile("(?!)")
    protected: set[int] = set()  # positions in the text without markers at which a marked token begins
    plain = ""
    at = 0
    for found in marked.finditer(text):
        plain += text[at : found.start()].replace(left, "").replace(right, "")
        protected.add(len(plain))
        plain += found[0].strip(left + right)
        at = found.end()
    plain += text[at:].replace(left, "").replace(right, "")

    tokens: list[int] = []
    run = 0
    strips_right = False
    for found in _outside(special, plain, protected):
        token = controls[found[0]]
        strip_left, strip_right = engine.strips_spaces(token)
        tokens += _plain_tokens(engine, plain[run : found.start()], strips_right, strip_left)
        tokens.append(token)
        run, strips_right = found.end(), strip_right
    return tokens + _plain_tokens(engine, plain[run:], strips_right, False)


def _outside(special: re.Pattern[str], text: str, protected: set[int]) -> Iterator[re.Match[str]]:
    at = 0
    while found := special.search(text, at):
        if found.start() in protected:
            at = found.start() + 1
        else:
            yield found
            at = found.end()


def _plain_tokens(engine: LoadedModel, text: str, strip_left: bool, strip_right: bool) -> list[int]:
    text = text.lstrip() if strip_left else text
    text = text.rstrip() if strip_right else text
    return engine.tokenize(text, parse_special=False) if text else []


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it wants too much memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or calls itself without end"
    line = getattr(error, "lineno", None)
    return f"{str(error)[:300] or type(error).__name__}" + (f" (line {line})" if line else "")
