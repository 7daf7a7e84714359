"""Commands by name, each loaded when it is called: the others' imports would cost every call a tenth of a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from ggufkit.cli._help import GroupedCommand, explained
from ggufkit.cli._option_groups import spread


@dataclass(frozen=True, slots=True)
class Entry:
    """A command before it is loaded: the module of `ggufkit.cli` that holds it, and its line in the list."""

    name: str
    module: str
    summary: str = ""
    hidden: bool = False

    def load(self) -> Any:
        """Import the module and make the command: from its `app`, if it has commands of its own, else its `command`."""
        module = import_module(f"ggufkit.cli.{self.module}")
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(rich_markup_mode=None, add_completion=False)
            app.command(self.name, cls=getattr(module, "COMMAND_CLASS", GroupedCommand))(spread(module.command))
        command = typer.main.get_command(app)
        command.name = self.name
        return command


class _Announced(TyperCommand):
    """Stands in the list for a command that is not loaded yet."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, short_help=entry.summary, hidden=entry.hidden, rich_markup_mode=None)
        self.entry = entry


class CommandTable(TyperGroup):
    """Subclass with a `table`: heading -> entries, both in the order of the help."""

    table: ClassVar[Mapping[str, Sequence[Entry]]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for entries in self.table.values():
            for entry in entries:
                self.add_command(_Announced(entry))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command's name. Raises ggufkit's UsageError for others."""
        return explained(super().parse_args, ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that is called, and load it; `help [COMMAND]` is `[COMMAND] --help`.

        Raises:
            UsageError: there is none of this name; the hint has the nearest names.
        """
        if args and args[0] == "help":
            if not args[1:]:
                print(ctx.get_help())
                ctx.exit()
            args = [*args[1:], "--help"]
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            from ggufkit.cli._usage_errors import unknown_command

            raise unknown_command(args[0], ctx)
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.entry.load() if isinstance(command, _Announced) else command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """Write each heading with its commands."""
        width = max(len(name) for name in self.commands)
        for heading, entries in self.table.items():
            with formatter.section(heading):
                formatter.write_dl([(entry.name.ljust(width), entry.summary) for entry in entries if not entry.hidden])
