"""Options that several commands share, as one parameter: a dataclass, each of whose fields is an option.

    @dataclass(frozen=True, kw_only=True)
    class Colours:
        ink: Annotated[str, typer.Option("--ink", help="…")] = "black"

    def command(page: Path, colours: Colours) -> None: ...

Every command is `spread` when it is loaded: to Typer, and to whoever reads the help, it has an option --ink.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any, get_type_hints


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of each group in the group's place; it makes the groups when it is called.

    Raises:
        ValueError: two parameters, of whichever group, have one name.
    """
    signature = inspect.signature(command)
    groups = {name: each.annotation for name, each in signature.parameters.items() if _is_group(each.annotation)}
    if not groups:
        return command
    parameters = [each for parameter in signature.parameters.values() for each in _parameters(parameter)]

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # what Typer reads
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _parameters(parameter: Parameter) -> Iterator[Parameter]:
    if not _is_group(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    types = get_type_hints(parameter.annotation, include_extras=True)
    for field in dataclasses.fields(parameter.annotation):
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name])
