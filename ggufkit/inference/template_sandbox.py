"""A Jinja environment for templates from strangers: as transformers has it, but no loop and no value is without end.

Jinja's own sandbox stops a template from reaching Python; it lets one run for years or fill the memory. Here every
statement looks at a clock, and every operation that could make something large out of something small is weighed.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ggufkit.inference.template_limits import TooMuchError, is_small, refuse_size, repeated, weigh, weighed
from ggufkit.inference.template_meter import GenerationBlock, metered

LARGEST_SOURCE = 100_000  # characters; the longest known template has 17 thousand, and compiling takes its time
LARGEST_SCANNED = 1 << 20  # characters, for filters that look at single words
WIDEST_PADDING = 10_000
# Of the processor, so that a busy machine fails no honest template: for all renderings of one, beyond UNNOTICED each.
SECONDS = 2.0
UNNOTICED = 0.2

_FILTERS = {
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape"),
    *("groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate", "unique"),
    *("upper", "wordcount"),
}
_LONG_NUMBER = re.compile(r"\d{5,}")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")
_PERCENT_STAR = re.compile(r"%[^%a-zA-Z]*\*")
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs"}


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Renders as transformers' `apply_chat_template` does, within limits."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Unoptimized: constant expressions would be computed while compiling, outside the limits.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols], optimized=False
        )
        self.deadline = float("inf")
        allowed = {name: self.filters[name] for name in _FILTERS}
        allowed |= {name: _scanning(name, allowed[name]) for name in ("title", "wordcount")}
        allowed |= {
            "join": _join(self.filters["join"]),
            "replace": _replace_filter,
            "indent": _indent_filter,
            "tojson": _tojson,
        }
        self.filters = {name: self._metered(function) for name, function in allowed.items()}
        del self.globals["lipsum"]
        helpers: dict[str, Any] = {
            "dict": lambda *args, **kwargs: weighed(dict(*args, **kwargs)),
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self.globals |= helpers

    def tick(self) -> None:
        """Called before every statement of a template: give up when its time is over."""
        if time.thread_time() > self.deadline:
            raise TooMuchError("it runs for seconds, as no honest one does")

    def weighed(self, value: Any) -> Any:
        """Called with what an expression computes: look at its size, and at the clock."""
        self.tick()
        return weighed(value)

    def concatenated(self, *parts: Any) -> str:
        """Do what the operator `~` does."""
        self.tick()
        texts = [str(part) for part in parts]
        refuse_size(sum(map(len, texts)))
        return "".join(texts)

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Weigh what a filter gives; what says how Jinja is to call it goes along."""

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            return self.weighed(function(*args, **kwargs))

        return measured

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator whose result may be large, if it is not."""
        if operator == "**" and not (is_small(left) and is_small(right) and right <= 64):
            raise TooMuchError("it raises to a large power")
        if operator == "*":
            refuse_size(repeated(left, right))
        if operator == "%" and isinstance(left, str):
            _refuse_padding(left, _PERCENT_STAR)
        return self.weighed(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what the template calls; methods of strings that can blow up only within limits."""
        name = getattr(function, "__name__", "")
        # Jinja wraps format and format_map; the string is behind the wrapper.
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, str | bytes):
            if name in _PADDING and any(
                isinstance(arg, int) and arg > WIDEST_PADDING for arg in (*args, *kwargs.values())
            ):
                raise TooMuchError(f"it pads a text with {name}() beyond {WIDEST_PADDING} characters")
            if name == "translate":
                raise SecurityError("translate() is not available to chat templates")
            if name in {"format", "format_map"} and isinstance(owner, str):
                _refuse_padding(owner, _NESTED_FIELD)
            if name == "replace" and isinstance(owner, str) and len(args) >= 2:
                return _replaced(owner, *args)
            if name == "join" and isinstance(owner, str) and args:
                args = (_joinable(args[0], owner),)
        return self.weighed(super().call(context, function, *args, **kwargs))

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        metered(self, source)
        return super()._generate(source, name, filename, defer_init)


def _refuse_padding(pattern: str, computed_width: re.Pattern[str]) -> None:
    if _LONG_NUMBER.search(pattern) or computed_width.search(pattern):
        raise TooMuchError("it formats with a very large or computed width")


def _joinable(values: Iterable[Any], separator: Any) -> list[Any]:
    """Return the values as a list, after a look at how long they are when joined."""
    parts = list(values)
    refuse_size(sum(weigh(part, {}) for part in parts) + len(str(separator)) * len(parts))
    return parts


def _scanning(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse long texts to a filter that takes them apart word by word."""

    @functools.wraps(original)
    def scanning(text: Any) -> Any:
        if len(str(text)) > LARGEST_SCANNED:
            raise TooMuchError(f"it takes the words of a very long text apart ({name})")
        return original(text)

    return scanning


def _join(original: Callable[..., Any]) -> Callable[..., Any]:
    from jinja2 import pass_eval_context

    @pass_eval_context
    def join(context: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Any:
        return original(context, _joinable(value, d), d, attribute)

    return join


def _replace_filter(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _replaced(str(text), str(old), str(new), -1 if count is None else count)


def _replaced(text: str, old: str, new: str, count: int = -1) -> str:
    times = text.count(old) if count < 0 else min(count, text.count(old))
    refuse_size(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, count)


def _indent_filter(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indent all lines but the first, as Jinja's own filter does."""
    padding = width if isinstance(width, str) else " " * min(width, WIDEST_PADDING)
    lines = f"{text}\n".splitlines()
    refuse_size(len(str(text)) + len(padding) * len(lines))
    rest = [padding + line if line or blank else line for line in lines[1:]]
    return (padding if first else "") + "\n".join([lines[0], *rest])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without escaping HTML, with the parameters that transformers gives its filter."""
    if isinstance(indent, int) and indent > 64:
        raise TooMuchError("it indents JSON very far")
    if isinstance(value, Undefined):
        raise TemplateError("it writes an undefined value as JSON")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise RefusedByTemplateError(str(message))


class RefusedByTemplateError(TemplateError):
    """The template called `raise_exception`: it does not take these messages."""


def _strftime_now(pattern: str) -> str:
    _refuse_padding(pattern, _PERCENT_STAR)
    return datetime.now().astimezone().strftime(pattern)


class _Namespace(Namespace):
    """Jinja's namespace, but printing it does not print what is in it, and no name reaches into Python."""

    def __repr__(self) -> str:
        return "<namespace>"

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template cannot set {name!r}")
        super().__setitem__(name, value)
