"""Help in groups: the options of a command under the headings that its `rich_help_panel`s name, without rich."""

from typing import Any

from typer.core import TyperCommand


class GroupedCommand(TyperCommand):
    """Give as `cls=` to `app.command`. Options without a heading come first, as `Options`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options, in the order of their first option."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
