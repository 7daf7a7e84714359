"""The tree of a template (text/template/parse/parse.go)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ggufkit.exports.go_template.errors import GoTemplateError, LeftOutError
from ggufkit.exports.go_template.lexer import Kind, Token, tokens


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number or truth value; None is `nil`."""

    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Dot:
    """What the template is looking at."""


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`; of `$` itself the name is empty."""

    name: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of a value, one after the other."""

    value: "Operand"
    fields: tuple[str, ...]


Operand: TypeAlias = "Literal | Dot | Variable | Function | Chain | Pipeline"


@dataclass(frozen=True, slots=True)
class Command:
    """A value, or a function and what it is given."""

    operands: tuple[Operand, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each of which is given the last one's value; what it declares or assigns."""

    commands: tuple[Command, ...]
    variables: tuple[str, ...]
    declares: bool
    line: int


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose value is written, unless it goes to a variable."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `range` or `with`."""

    keyword: str
    pipeline: Pipeline
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    keyword: str


Node: TypeAlias = Text | Action | Branch | Jump


def parse(source: str) -> tuple[Node, ...]:
    """Parse a template. Raises GoTemplateError."""
    parser = _Parser(tokens(source))
    nodes, _ = parser.nodes(frozenset(), loops=0)
    return nodes


class _Parser:
    def __init__(self, words: Sequence[Token]) -> None:
        self._words = words
        self._at = 0
        self._scopes: list[set[str]] = [{""}]  # of variables; the empty name is `$`

    # ---- words

    def _peek(self, *, blanks: bool = False) -> Token | None:
        at = self._at
        while not blanks and at < len(self._words) and self._words[at].kind is Kind.SPACE:
            at += 1
        return self._words[at] if at < len(self._words) else None

    def _next(self) -> Token:
        while self._words[self._at].kind is Kind.SPACE:
            self._at += 1
        self._at += 1
        return self._words[self._at - 1]

    def _expect(self, kind: Kind) -> Token:
        word = self._next()
        if word.kind is not kind:
            raise GoTemplateError(f"unexpected {word.value!r}", word.line)
        return word

    # ---- statements

    def nodes(self, until: frozenset[str], *, loops: int) -> tuple[tuple[Node, ...], str]:
        """Parse up to one of some keywords, whose action stays to be read on, or to the end."""
        found: list[Node] = []
        while self._at < len(self._words):
            word = self._next()
            if word.kind is Kind.TEXT:
                found.append(Text(str(word.value)))
                continue
            first = self._peek()
            keyword = str(first.value) if first and first.kind is Kind.KEYWORD else ""
            if keyword in until:
                self._next()
                return tuple(found), keyword
            if keyword in {"if", "range", "with"}:
                self._next()
                found.append(self._branch(keyword, loops + (keyword == "range")))
            elif keyword in {"break", "continue"}:
                self._next()
                if not loops:
                    raise GoTemplateError(f"{keyword} outside of a range", word.line)
                self._expect(Kind.END)
                found.append(Jump(keyword))
            elif keyword in {"define", "block", "template"}:
                raise LeftOutError(f"{keyword} is not supported here", word.line)
            elif keyword and keyword != "nil":
                raise GoTemplateError(f"unexpected {keyword}", word.line)
            else:
                found.append(Action(self._pipeline(Kind.END)))
        if until:
            last = self._words[-1].line if self._words else 1
            raise GoTemplateError("an if, range or with has no end", last)
        return tuple(found), ""

    def _branch(self, keyword: str, loops: int) -> Branch:
        self._scopes.append(set())
        pipeline = self._pipeline(Kind.END, most_variables=2 if keyword == "range" else 1)
        body, ended_by = self._scoped(frozenset({"else", "end"}), loops)
        otherwise: tuple[Node, ...] = ()
        if ended_by == "else":
            following = self._peek()
            if following and following.kind is Kind.KEYWORD and following.value in {"if", "with"}:
                # `else if` is an `if` in the `else`, which the one `end` closes as well.
                self._next()
                otherwise = (self._branch(str(following.value), loops),)
                self._scopes.pop()
                return Branch(keyword, pipeline, body, otherwise)
            self._expect(Kind.END)
            otherwise, _ = self._scoped(frozenset({"end"}), loops - (keyword == "range"))
        self._expect(Kind.END)
        self._scopes.pop()
        return Branch(keyword, pipeline, body, otherwise)

    def _scoped(self, until: frozenset[str], loops: int) -> tuple[tuple[Node, ...], str]:
        self._scopes.append(set())
        found = self.nodes(until, loops=loops)
        self._scopes.pop()
        return found

    # ---- expressions

    def _pipeline(self, end: Kind, *, most_variables: int = 1) -> Pipeline:
        start = self._peek()
        line = start.line if start else 1
        variables, declares = self._declaration(most_variables)
        commands = [self._command(end)]
        while self._next_is(Kind.PIPE):
            self._next()
            commands.append(self._command(end))
        self._expect(end)
        for command in commands[1:]:
            if isinstance(command.operands[0], Literal | Dot):
                raise GoTemplateError("a value cannot be given to something that is no function", line)
        if variables and declares:
            self._scopes[-1] |= set(variables)
        return Pipeline(tuple(commands), variables, declares, line)

    def _declaration(self, most: int) -> tuple[tuple[str, ...], bool]:
        start = self._at
        names: list[str] = []
        while self._next_is(Kind.VARIABLE) and len(names) < most:
            names.append(str(self._next().value)[1:])
            if self._next_is(Kind.DECLARE) or self._next_is(Kind.ASSIGN):
                declares = self._next().kind is Kind.DECLARE
                unknown = [] if declares else [name for name in names if not self._is_known(name)]
                if unknown:
                    raise GoTemplateError(f"undefined variable ${unknown[0]}", self._words[self._at - 1].line)
                return tuple(names), declares
            if not self._next_is(Kind.COMMA):
                break
            self._next()
        self._at = start
        return (), False

    def _command(self, end: Kind) -> Command:
        operands: list[Operand] = []
        first = self._peek()
        line = first.line if first else 1
        while True:
            word = self._peek()
            if word is None:
                raise GoTemplateError("an action is not closed", line)
            if word.kind in {Kind.PIPE, end} or (end is Kind.END and word.kind is Kind.END):
                break
            if operands and self._words[self._at].kind is not Kind.SPACE:
                raise GoTemplateError(f"unexpected {word.value!r}: a space is missing before it", word.line)
            operands.append(self._operand())
        if not operands:
            raise GoTemplateError("a value is missing", line)
        if len(operands) > 1 and isinstance(operands[0], Literal | Dot):
            raise GoTemplateError("a value is given to something that is no function", line)
        return Command(tuple(operands), line)

    def _operand(self) -> Operand:
        word = self._next()
        value: Operand
        match word.kind:
            case Kind.STRING | Kind.NUMBER | Kind.BOOL:
                value = Literal(word.value)
            case Kind.KEYWORD if word.value == "nil":
                return Literal(None)
            case Kind.NAME:
                return Function(str(word.value))
            case Kind.DOT:
                return Dot()
            case Kind.FIELD:
                value = Chain(Dot(), (str(word.value),))
            case Kind.VARIABLE:
                value = Variable(str(word.value)[1:])
                if not self._is_known(value.name):
                    raise GoTemplateError(f"undefined variable ${value.name}", word.line)
            case Kind.OPEN:
                value = self._pipeline(Kind.CLOSE)
            case _:
                raise GoTemplateError(f"unexpected {word.value!r}", word.line)
        fields = list(value.fields) if isinstance(value, Chain) else []
        base = value.value if isinstance(value, Chain) else value
        while (following := self._peek(blanks=True)) and following.kind is Kind.FIELD:
            if isinstance(value, Literal):
                raise GoTemplateError("a constant has no fields", following.line)
            fields.append(str(self._next().value))
        return Chain(base, tuple(fields)) if fields else value

    def _next_is(self, kind: Kind) -> bool:
        word = self._peek()
        return word is not None and word.kind is kind

    def _is_known(self, name: str) -> bool:
        return any(name in scope for scope in self._scopes)
