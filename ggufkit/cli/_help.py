"""A command whose help comes in groups, under the headings that `rich_help_panel`s name, and whose errors are ours."""

import re
from collections.abc import Callable
from typing import Any

from typer import TyperException
from typer.core import TyperCommand

_KINDS = {"int": "N", "int range": "N", "float": "X", "float range": "X", "path": "PATH", "str": "TEXT"}

_ENDLESS = 2**31 - 1  # a limit for the machine's sake, which nobody needs to read of


class GroupedCommand(TyperCommand):
    """Give as `cls=` to `app.command`. Options without a heading come first, as `Options`."""

    allow_extra_args = True  # `parse_args` refuses them in our own words

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words behind the command's name. Raises ggufkit's UsageError for what the command does not take."""
        rest = explained(super().parse_args, ctx, args)
        if rest and not ctx.resilient_parsing:
            from ggufkit.cli._usage_errors import left_over

            raise left_over(rest, ctx)
        return rest

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
                    name, text = name_of(parameter), re.sub(r" +\[required\]$", "", text)
                groups.setdefault(heading, []).append((_plain_kind(name), _plain_text(text)))
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def explained(parse: Callable[[Any, list[str]], list[str]], context: Any, words: list[str]) -> list[str]:
    """Read a command line; what Typer does not understand of it is told in ggufkit's form."""
    read = list(words)  # Typer empties the list that it reads
    try:
        return parse(context, words)
    except TyperException as error:
        from ggufkit.cli._usage_errors import explain

        raise explain(error, context, read) from error


def name_of(argument: Any) -> str:
    """Return what the help calls an argument."""
    return str(argument.metavar or argument.name.upper())


def _in_usage(argument: Any) -> str:
    name = name_of(argument)
    if argument.nargs != 1 and "..." not in name:
        name += "..."
    is_whole = argument.required or " " in name or name.startswith("[")  # says itself what may be left out
    return name if is_whole else f"[{name}]"


def _plain_kind(name: str) -> str:
    """Write `-t <int range>` as `-t N`, and `--mode <on|off>` as `--mode on|off`."""
    kind = re.search(r" <(?:list\[)?([^\[\]>]*)\]?>$", name)
    return f"{name[: kind.start()]} {_KINDS.get(kind[1].lower(), kind[1])}" if kind else name


def _plain_text(text: str) -> str:
    """Join what stands in brackets behind a help text: Typer's default and range, and a default that Typer knows not.

    `Tokens. [512]  [x>=16]` becomes `Tokens. [default: 512; at least 16]`. That a number may not be negative, or not 0
    where that would make no sense, goes without saying: those who try are told.
    """
    found = re.fullmatch(r"(.*?)(?: \[([^\[\]]+)\])?(?:  \[([^\[\]]+)\])?", text, re.DOTALL)
    if found is None or not (found[2] or found[3]):
        return text
    said = [f"default: {found[2]}"] if found[2] else []
    for part in (found[3] or "").split("; "):
        limits = re.fullmatch(r"(?:(-?[\d.]+)<=)?x(?:>=(-?[\d.]+)|<=([\d.]+))", part)
        if limits is None:
            said += [part] if part else []
        elif limits[3] is not None and float(limits[3]) >= _ENDLESS:
            continue
        elif limits[3] is not None:
            said.append(f"{limits[1]} to {limits[3]}" if limits[1] else f"at most {limits[3]}")
        elif float(limits[2]) > 1:
            said.append(f"at least {limits[2]}")
    return f"{found[1].rstrip()} [{'; '.join(said)}]" if said else found[1].rstrip()


def kind_of(option: Any, context: Any) -> str:
    """Return what the help writes for the value of an option, such as `N`; nothing for one that takes none."""
    if option.is_flag:
        return ""
    return _plain_kind(f"- {option.display_type_rich(context)}")[2:]


def range_of(option: Any) -> str:
    """Return the range of a number, such as `at least 1`."""
    limits = option.type_descriptor.parameter_info
    if limits.max is None:
        return f"at least {limits.min:g}"
    return f"at most {limits.max}" if limits.min is None else f"{limits.min:g} to {limits.max}"


def first_sentence(text: str) -> str:
    """Return what a help text says first, without its full stop."""
    return re.split(r"(?<=[^.])\.(?: |$)|;|  ", text.strip(), maxsplit=1)[0]
