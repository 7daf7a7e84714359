"""From messages to tokens: the model's own chat template, with what people write kept apart from what it commands."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ggufkit.errors import InputError, UnsafeError
from ggufkit.inference.control_text import alternatives, control_spellings, controls_in, tokenize_marked
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

        from ggufkit.inference.template_limits import TooMuchError
        from ggufkit.inference.template_sandbox import LARGEST_SOURCE, SECONDS, ChatEnvironment

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
        from ggufkit.inference.template_limits import LARGEST_VALUE, TooMuchError, limited_memory
        from ggufkit.inference.template_sandbox import UNNOTICED, RefusedByTemplateError

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
        spellings = {spelling for text in written for spelling in control_spellings(engine, text)}
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
        pattern = alternatives(spellings)
        harmless = self.render(_changed(messages, pattern, lambda text: "x" * len(text)), variables=variables)
        wanted = controls_in(engine, engine.tokenize(harmless, parse_special=True))
        taken = self.source + "".join(message.content + message.reasoning for message in messages)
        free = [marker for marker in _MARKERS if marker not in taken]
        if len(free) >= 2:
            left, right = free[:2]
            marked = self.render(_changed(messages, pattern, lambda text: left + text + right), variables=variables)
            tokens = tokenize_marked(engine, marked, pattern, left, right)
            if controls_in(engine, tokens) == wanted:
                return tokens
        broken = _changed(messages, pattern, lambda text: text[0] + _ZERO_WIDTH_SPACE + text[1:])
        tokens = engine.tokenize(self.render(broken, variables=variables), parse_special=True)
        if controls_in(engine, tokens) != wanted:
            raise UnsafeError("the conversation holds text that this chat template turns into control tokens")
        return tokens


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """Put a leading system message into the first user message, for templates without that role."""
    if len(messages) < 2 or messages[0].role != "system":
        return list(messages)
    system, first, *rest = messages
    return [replace(first, content=f"{system.content}\n\n{first.content}"), *rest]


_OTHER_TEMPLATE = "use another template with --chat-template FILE"


def _changed(messages: Sequence[Message], pattern: re.Pattern[str], change: Any) -> list[Message]:
    def changed(text: str) -> str:
        return pattern.sub(lambda found: str(change(found[0])), text)

    return [
        replace(message, content=changed(message.content), reasoning=changed(message.reasoning)) for message in messages
    ]


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it wants too much memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or calls itself without end"
    line = getattr(error, "lineno", None)
    return f"{str(error)[:300] or type(error).__name__}" + (f" (line {line})" if line else "")
