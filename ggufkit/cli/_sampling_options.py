"""Options that say how tokens are chosen, for every command that generates text, with llama.cpp's names.

All are None when not given: then what the model's file asks for holds. `sampling_options` returns those that were
given, as keyword arguments of `SamplingOptions`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "How tokens are chosen (default: what the model's file asks for, else as shown)"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002 - Typer's name for it
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, rich_help_panel=PANEL)


Temperature = Annotated[
    float | None, _option("--temp", "--temperature", help="Randomness; 0: always the likeliest token. [0.8]")
]
TopK = Annotated[int | None, _option("--top-k", help="Keep the k likeliest; 0: all. [40]")]
TopP = Annotated[float | None, _option("--top-p", help="Keep the likeliest up to sum p. [0.95]")]
MinP = Annotated[float | None, _option("--min-p", help="Drop those below p times the likeliest. [0.05]")]
RepeatPenalty = Annotated[float | None, _option("--repeat-penalty", help="Against repetition; 1: off. [1.0]")]
RepeatLastN = Annotated[
    int | None, _option("--repeat-last-n", help="Recent tokens that the penalties look at; 0: none. [64]")
]
PresencePenalty = Annotated[float | None, _option("--presence-penalty", help="Against tokens that came up. [0]")]
FrequencyPenalty = Annotated[float | None, _option("--frequency-penalty", help="The same, for each time. [0]")]
Seed = Annotated[int | None, _option("-s", "--seed", help="Same seed, same reply. Default: random.")]
Grammar = Annotated[
    str | None,
    _option("--grammar", metavar="FILE|GBNF", help="The reply has to follow this grammar, whose first rule is `root`."),
]
JsonSchema = Annotated[
    str | None,
    _option("-j", "--json-schema", metavar="FILE|JSON", help="The reply has to be JSON of this schema; {}: any."),
]


def sampling_options(
    *, grammar: str | None = None, json_schema: str | None = None, **given: float | None
) -> dict[str, Any]:
    """Return what was given, checked, as keyword arguments of `SamplingOptions`.

    Raises:
        UsageError: a value makes no sense, or both a grammar and a schema were given.
        InputError: the file named cannot be read, or is no grammar or schema.
    """
    from ggufkit.errors import UsageError
    from ggufkit.inference.options import SamplingOptions

    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if grammar is not None and json_schema is not None:
        raise UsageError("--grammar and --json-schema cannot be given together")
    if grammar is not None:
        chosen["grammar"] = _text(grammar, "grammar", is_text="::=" in grammar)
    if json_schema is not None:
        from ggufkit.llamacpp import json_schema as converter

        is_text = json_schema.lstrip().startswith("{")
        chosen["grammar"] = converter.grammar(_text(json_schema, "JSON schema", is_text=is_text))
    SamplingOptions(**chosen)
    return chosen


def _text(value: str, what: str, *, is_text: bool) -> str:
    """Return a text that was given in place, or the content of the file that was named."""
    from ggufkit.errors import InputError

    if is_text:
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text in UTF-8"
        raise InputError(f"cannot read the {what} {value}: {reason}") from error
