"""A Jinja environment for templates from strangers: as transformers has it, but no loop and no value is without end.

Jinja's own sandbox stops a template from reaching Python; it lets one run for years or fill the memory. Here every
statement looks at a clock, and every operation that could make something large out of something small is weighed.
"""

import contextlib
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Environment, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

LARGEST_SOURCE = 100_000  # characters; the longest known template has 17 thousand, and compiling takes its time
LARGEST_VALUE = 16 << 20  # characters; elements count as ELEMENT of them, as often as they would be printed
ELEMENT = 32
LARGEST_SCANNED = 1 << 20  # characters, for filters that look at single words
LARGEST_NUMBER = 4096  # bits
WIDEST_PADDING = 10_000
MOST_MEMORY = 512 << 20  # bytes on top of what the process has
# Of the processor, so that a busy machine fails no honest template: for all renderings of one, beyond UNNOTICED each.
SECONDS = 2.0
UNNOTICED = 0.2

_FILTERS = {
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape"),
    *("groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate", "unique"),
    *("upper", "wordcount"),
}
_MOST_COMPARED = 8
_LONG_NUMBER = re.compile(r"\d{5,}")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")
_PERCENT_STAR = re.compile(r"%[^%a-zA-Z]*\*")
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs"}


class TooMuchError(TemplateError):
    """The template wants more time or memory than any honest one needs."""


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Renders as transformers' `apply_chat_template` does, within limits."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Unoptimized: constant expressions would be computed while compiling, outside the limits.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols], optimized=False
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
        _refuse_size(sum(map(len, texts)))
        return "".join(texts)

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Weigh what a filter gives; what says how Jinja is to call it goes along."""

        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            return self.weighed(function(*args, **kwargs))

        return metered

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator whose result may be large, if it is not."""
        if operator == "**" and not (_is_small(left) and _is_small(right) and right <= 64):
            raise TooMuchError("it raises to a large power")
        if operator == "*":
            _refuse_size(_repeated(left, right))
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
        _Meter(self).visit(source)
        for node in source.find_all(nodes.Node):
            for field in ("body", "else_"):
                statements = getattr(node, field, None)
                if isinstance(statements, list):
                    setattr(node, field, [step for statement in statements for step in (_tick(self), statement)])
        return super()._generate(source, name, filename, defer_init)


@contextlib.contextmanager
def limited_memory(size: int = MOST_MEMORY) -> Iterator[None]:
    """Let the process grow by `size` bytes at most, where the system can (Linux); beyond it there is a MemoryError."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a Path would do no good here
        limit = int(file.read().split()[0]) * resource.getpagesize() + size
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def weighed(value: Any) -> Any:
    """Return a value that printing or comparing can cope with. Raises TooMuchError for others.

    A list that holds one list twice, which holds one list twice …, is small in memory and endless to print: elements
    count as often as they would be printed.
    """
    _refuse_size(_weight(value, {}))
    return value


def _weight(value: Any, known: dict[int, int]) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int) and value.bit_length() > LARGEST_NUMBER:
        raise TooMuchError(f"it computes a number of more than {LARGEST_NUMBER} bits")
    if isinstance(value, Mapping):
        parts: Iterable[Any] = (part for pair in value.items() for part in pair)
    elif isinstance(value, list | tuple | set | frozenset | type({}.keys()) | type({}.values()) | type({}.items())):
        parts = value
    else:
        return 1
    if id(value) not in known:
        known[id(value)] = 1  # for lists that hold themselves
        total = ELEMENT * len(value)
        _refuse_size(total)
        for part in parts:
            total += _weight(part, known)
            if total > LARGEST_VALUE:
                break
        known[id(value)] = 1 + total
    return known[id(value)]


def _refuse_size(size: int) -> None:
    if size > LARGEST_VALUE:
        raise TooMuchError(f"it makes a value of more than {LARGEST_VALUE >> 20} million characters or elements")


def _is_small(number: Any) -> bool:
    return isinstance(number, int | float) and abs(number) < 2**64


def _repeated(left: Any, right: Any) -> int:
    """Return the size of a product before it is computed."""
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(count, int):
            return max(1, _weight(value, {})) * max(0, count)
    return 0


def _refuse_padding(pattern: str, computed_width: re.Pattern[str]) -> None:
    if _LONG_NUMBER.search(pattern) or computed_width.search(pattern):
        raise TooMuchError("it formats with a very large or computed width")


def _joinable(values: Iterable[Any], separator: Any) -> list[Any]:
    """Return the values as a list, after a look at how long they are when joined."""
    parts = list(values)
    _refuse_size(sum(_weight(part, {}) for part in parts) + len(str(separator)) * len(parts))
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
    _refuse_size(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, count)


def _indent_filter(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indent all lines but the first, as Jinja's own filter does."""
    padding = width if isinstance(width, str) else " " * min(width, WIDEST_PADDING)
    lines = f"{text}\n".splitlines()
    _refuse_size(len(str(text)) + len(padding) * len(lines))
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


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks the model's part for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as a plain set

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Meter(NodeTransformer):
    """Puts a scale on every expression that builds a container or joins texts."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def _measured(self, name: str, arguments: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
        return _call(self._environment, name, arguments, at.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        if len(node.ops) > _MOST_COMPARED:
            raise TooMuchError(f"it compares more than {_MOST_COMPARED} values in a row")
        self.generic_visit(node)
        return self._measured("weighed", [node], node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._measured("weighed", [node], node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's visitors are named after its nodes
        self.generic_visit(node)
        return self._measured("concatenated", node.nodes, node)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._measured("weighed", [node], node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._measured("weighed", [node], node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._measured("weighed", [node], node) if node.ctx == "load" else node


def _tick(environment: Environment) -> nodes.Stmt:
    return nodes.ExprStmt(_call(environment, "tick", [], 1), lineno=1, environment=environment)


def _call(environment: Environment, name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=line, environment=environment)
    return nodes.Call(function, arguments, [], None, None, lineno=line, environment=environment)
