"""Carrying a template out (text/template/exec.go)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ggufkit.exports.go_template import parser
from ggufkit.exports.go_template.errors import GoTemplateError
from ggufkit.exports.go_template.functions import FUNCTIONS, LAZY, CallError, is_true, printed

_MOST_OUTPUT = 16 << 20  # characters


class Record(dict[str, Any]):
    """A struct of Go: asking it for a field that it does not have is an error, which of a map it is not."""


class _Jumped(Exception):  # noqa: N818 - it is how a loop is left, and no error
    def __init__(self, keyword: str) -> None:
        self.keyword = keyword


class Template:
    """A parsed template."""

    def __init__(self, source: str, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        """Parse a template; `functions` are more than those that all templates have.

        Raises:
            GoTemplateError: it is not valid, or calls what there is not.
        """
        self.source = source
        self._functions = {**FUNCTIONS, **(functions or {})}
        self._nodes = parser.parse(source)
        for name, line in _called(self._nodes):
            if name not in self._functions and name not in LAZY:
                raise GoTemplateError(f"function {name!r} not defined", line)

    def render(self, data: Mapping[str, Any]) -> str:
        """Carry the template out on a map.

        Raises:
            GoTemplateError: it fails on this data.
        """
        return "".join(_Run(self._functions, data).text_of(self._nodes, data))


class _Run:
    def __init__(self, functions: Mapping[str, Callable[..., Any]], data: Mapping[str, Any]) -> None:
        self._functions = functions
        self._variables: list[list[Any]] = [["", data]]  # names and values; the innermost is last
        self._size = 0

    def text_of(self, nodes: Sequence[parser.Node], dot: Any) -> Iterator[str]:
        for node in nodes:
            match node:
                case parser.Text(text):
                    yield self._counted(text)
                case parser.Action(pipeline):
                    value = self._value(pipeline, dot)
                    if not pipeline.variables:
                        yield self._counted(printed(value))
                case parser.Jump(keyword):
                    raise _Jumped(keyword)
                case parser.Branch("range"):
                    yield from self._range(node, dot)
                case parser.Branch():
                    yield from self._choice(node, dot)

    def _counted(self, text: str) -> str:
        self._size += len(text)
        if self._size > _MOST_OUTPUT:
            raise GoTemplateError("the template writes too much", 1)
        return text

    def _choice(self, node: parser.Branch, dot: Any) -> Iterator[str]:
        depth = len(self._variables)
        try:
            value = self._value(node.pipeline, dot)
            if is_true(value):
                yield from self.text_of(node.body, value if node.keyword == "with" else dot)
            else:
                yield from self.text_of(node.otherwise, dot)
        finally:
            del self._variables[depth:]

    def _range(self, node: parser.Branch, dot: Any) -> Iterator[str]:
        depth = len(self._variables)
        pipeline = node.pipeline
        value = self._value(parser.Pipeline(pipeline.commands, (), False, pipeline.line), dot)
        empty = True
        for key, item in _pairs(value, pipeline.line):
            empty = False
            values = (key, item)[-len(pipeline.variables) :] if pipeline.variables else ()
            for name, one in zip(pipeline.variables, values, strict=True):
                self._set(name, one, declares=pipeline.declares)
            try:
                yield from self.text_of(node.body, item)
            except _Jumped as jump:
                if jump.keyword == "break":
                    break
            finally:
                del self._variables[depth:]
        if empty:
            yield from self.text_of(node.otherwise, dot)

    def _set(self, name: str, value: Any, *, declares: bool) -> None:
        if declares:
            self._variables.append([name, value])
            return
        next(entry for entry in reversed(self._variables) if entry[0] == name)[1] = value

    def _value(self, pipeline: parser.Pipeline, dot: Any) -> Any:
        given: tuple[Any, ...] = ()
        for command in pipeline.commands:
            given = (self._command(command, dot, given),)
        [value] = given
        for name in pipeline.variables:
            self._set(name, value, declares=pipeline.declares)
        return value

    def _command(self, command: parser.Command, dot: Any, given: tuple[Any, ...]) -> Any:
        first, *rest = command.operands
        if not isinstance(first, parser.Function):
            if rest or given:
                raise GoTemplateError("a value is given to something that is no function", command.line)
            return self._operand(first, dot, command.line)
        if first.name in LAZY:
            decides = first.name == "or"
            value = None
            for number in range(len(rest) + len(given)):
                value = self._operand(rest[number], dot, command.line) if number < len(rest) else given[0]
                if is_true(value) is decides:
                    break
            return value
        arguments = [self._operand(operand, dot, command.line) for operand in rest]
        try:
            return self._functions[first.name](*arguments, *given)
        except CallError as error:
            raise GoTemplateError(f"error calling {first.name}: {error}", command.line) from error
        except TypeError as error:
            raise GoTemplateError(f"wrong number of arguments for {first.name}", command.line) from error

    def _operand(self, operand: parser.Operand, dot: Any, line: int) -> Any:
        match operand:
            case parser.Literal(value):
                return value
            case parser.Dot():
                return dot
            case parser.Variable(name):
                return next(entry for entry in reversed(self._variables) if entry[0] == name)[1]
            case parser.Pipeline():
                return self._value(operand, dot)
            case parser.Function():
                return self._command(parser.Command((operand,), line), dot, ())
            case parser.Chain(inner, fields):
                value = self._operand(inner, dot, line)
                for name in fields:
                    value = _field(value, name, line)
                return value


def _field(value: Any, name: str, line: int) -> Any:
    if value is None:
        raise GoTemplateError(f"nil has no field {name}", line)
    if not isinstance(value, Mapping):
        raise GoTemplateError(f"can't evaluate field {name} in {printed(value)[:30]!r}", line)
    if isinstance(value, Record) and name not in value:
        raise GoTemplateError(f"can't evaluate field {name}", line)
    return value.get(name)


def _pairs(value: Any, line: int) -> Iterator[tuple[Any, Any]]:
    match value:
        case None:
            return
        case Mapping():
            for key in sorted(value):
                yield key, value[key]
        case int() if not isinstance(value, bool):
            yield from ((number, number) for number in range(value))
        case Sequence() if not isinstance(value, str):
            yield from enumerate(value)
        case _:
            raise GoTemplateError(f"range can't iterate over {printed(value)[:30]!r}", line)


def _called(nodes: Sequence[parser.Node]) -> Iterator[tuple[str, int]]:
    """List the functions that a template calls, with their lines."""

    def in_pipeline(pipeline: parser.Pipeline) -> Iterator[tuple[str, int]]:
        for command in pipeline.commands:
            for operand in command.operands:
                inner = operand.value if isinstance(operand, parser.Chain) else operand
                if isinstance(inner, parser.Function):
                    yield inner.name, command.line
                elif isinstance(inner, parser.Pipeline):
                    yield from in_pipeline(inner)

    for node in nodes:
        if isinstance(node, parser.Action | parser.Branch):
            yield from in_pipeline(node.pipeline)
        if isinstance(node, parser.Branch):
            yield from _called(node.body)
            yield from _called(node.otherwise)
