"""Options that say how a conversation becomes a prompt, for every command that holds one, with llama.cpp's names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

PANEL = "Chat template and reasoning"


@dataclass(frozen=True, kw_only=True)
class TemplateChoices:
    """A group of options; what is None was not given."""

    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            metavar="FILE",
            help="Jinja file to use in place of the model's own template.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs",
            metavar="JSON",
            help="More values for the template, as one JSON object.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    reasoning: Annotated[
        Literal["on", "off", "auto"] | None,
        typer.Option(
            "--reasoning",
            help="Whether the model thinks before it answers; auto: as its template has it. [auto]",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
