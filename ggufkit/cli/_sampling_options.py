"""Options that say how tokens are chosen, for every command that generates text, with llama.cpp's names.

All are None when not given: then what the model's file asks for holds.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from ggufkit.homes import expanded

PANEL = "How tokens are chosen (default: what the model's file asks for, else as shown)"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002 - Typer's name for it
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, rich_help_panel=PANEL)


@dataclass(frozen=True, kw_only=True)
class SamplingChoices:
    """A group of options; what is None was not given."""

    temperature: Annotated[
        float | None, _option("--temp", "--temperature", help="Randomness; 0: always the likeliest token. [0.8]")
    ] = None
    top_k: Annotated[int | None, _option("--top-k", help="Keep the k likeliest; 0: all. [40]")] = None
    top_p: Annotated[float | None, _option("--top-p", help="Keep the likeliest up to sum p. [0.95]")] = None
    min_p: Annotated[float | None, _option("--min-p", help="Drop those below p times the likeliest. [0.05]")] = None
    repeat_penalty: Annotated[float | None, _option("--repeat-penalty", help="Against repetition; 1: off. [1.0]")] = (
        None
    )
    repeat_last_n: Annotated[
        int | None, _option("--repeat-last-n", help="Recent tokens that the penalties look at; 0: none. [64]")
    ] = None
    presence_penalty: Annotated[
        float | None, _option("--presence-penalty", help="Against tokens that came up. [0]")
    ] = None
    frequency_penalty: Annotated[float | None, _option("--frequency-penalty", help="The same, for each time. [0]")] = (
        None
    )
    seed: Annotated[int | None, _option("-s", "--seed", help="Same seed, same reply. Default: random.")] = None
    grammar: Annotated[
        str | None,
        _option(
            "--grammar", metavar="FILE|GBNF", help="The reply has to follow this grammar, whose first rule is `root`."
        ),
    ] = None
    json_schema: Annotated[
        str | None,
        _option("-j", "--json-schema", metavar="FILE|JSON", help="The reply has to be JSON of this schema; {}: any."),
    ] = None

    def options(self) -> dict[str, Any]:
        """Return what was given, checked, as keyword arguments of `SamplingOptions`.

        Raises:
            UsageError: a value makes no sense, or both a grammar and a schema were given.
            InputError: the file named cannot be read, or is no grammar or schema.
        """
        from ggufkit.errors import UsageError
        from ggufkit.inference.options import SamplingOptions

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value for name, value in given.items() if value is not None and name != "json_schema"}
        if self.grammar is not None and self.json_schema is not None:
            raise UsageError("--grammar and --json-schema cannot be given together")
        if self.grammar is not None:
            chosen["grammar"] = _text(self.grammar, "grammar", is_text="::=" in self.grammar)
        if self.json_schema is not None:
            from ggufkit.llamacpp import json_schema as converter

            is_text = self.json_schema.lstrip().startswith("{")
            chosen["grammar"] = converter.grammar(_text(self.json_schema, "JSON schema", is_text=is_text))
        SamplingOptions(**chosen)
        return chosen


def _text(value: str, what: str, *, is_text: bool) -> str:
    """Return a text that was given in place, or the content of the file that was named."""
    from ggufkit.errors import InputError

    if is_text:
        return value
    try:
        return expanded(value).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text in UTF-8"
        raise InputError(f"cannot read the {what} {value}: {reason}") from error
