"""What a template gets while it is compiled: a look at the clock before every statement, scales on expressions."""

from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from ggufkit.inference.template_limits import TooMuchError

_MOST_COMPARED = 8


def metered(environment: Environment, source: nodes.Template) -> None:
    """Have a template call `tick` of its environment before statements, `weighed` and `concatenated` on what it makes.

    Raises:
        TooMuchError: an expression is too long to be measured.
    """
    _Meter(environment).visit(source)
    for node in source.find_all(nodes.Node):
        for field in ("body", "else_"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [step for statement in statements for step in (_tick(environment), statement)])


class GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks the model's part for training; here it is just its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as a plain set

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Read the block, whose first word was read already."""
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
