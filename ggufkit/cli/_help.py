"""Help in groups: the options of a command under the headings that its `rich_help_panel`s name, without rich."""

import re
from typing import Any

from typer.core import TyperCommand

_KINDS = {"int": "N", "int range": "N", "float": "X", "float range": "X", "path": "PATH", "str": "TEXT"}


class GroupedCommand(TyperCommand):
    """Give as `cls=` to `app.command`. Options without a heading come first, as `Options`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Write what is required plainly, and the rest in brackets: `MODEL... [NAME]`."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return [self.options_metavar or "", *(_in_usage(argument) for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options, in the order of their first option."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                heading = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
                name, text = record
                if is_argument:  # the usage says which are required
                    name, text = _name_of(parameter), re.sub(r" +\[required\]$", "", text)
                groups.setdefault(heading, []).append((_plain_kind(name), _plain_range(text)))
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _name_of(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _in_usage(argument: Any) -> str:
    name = _name_of(argument)
    if argument.nargs != 1 and "..." not in name:
        name += "..."
    is_whole = argument.required or " " in name or name.startswith("[")  # says itself what may be left out
    return name if is_whole else f"[{name}]"


def _plain_kind(name: str) -> str:
    """Write `-t <int range>` as `-t N`, and `--mode <on|off>` as `--mode on|off`."""
    kind = re.search(r" <(?:list\[)?([^\[\]>]*)\]?>$", name)
    return f"{name[: kind.start()]} {_KINDS.get(kind[1].lower(), kind[1])}" if kind else name


def _plain_range(text: str) -> str:
    """Write `[x>=1]` as `[at least 1]`, and `[1<=x<=64]` as `[1 to 64]`."""
    return re.sub(r"\bx>=(-?[\d.]+)\]$", r"at least \1]", re.sub(r"(-?[\d.]+)<=x<=([\d.]+)\]$", r"\1 to \2]", text))
