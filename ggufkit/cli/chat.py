"""`ggufkit chat`: talk to a model, or put one question to it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ggufkit.cli import _engine_options, _model, _options, _template_options
from ggufkit.cli._engine_options import EngineChoices
from ggufkit.cli._placement_options import PlacementChoices
from ggufkit.cli._sampling_options import SamplingChoices
from ggufkit.cli._template_options import TemplateChoices

_CONVERSATION = "The conversation"


def command(
    *,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file (of a split model, the first), or owner/repo[:QUANT] on the hub.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="Ask this and leave. Piped text is put in front of it.", show_default=False
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("-sys", "--system", help="Tell the model how to behave.")] = None,
    single_turn: Annotated[bool, typer.Option("-st", "--single-turn", help="Leave after one reply.")] = False,
    predict: Annotated[
        int | None,
        typer.Option(
            "-n", "--predict", min=-1, help="Most tokens of a reply, at least 1; -1: no limit. [-1]", show_default=False
        ),
    ] = None,
    json: _options.Json = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show llama.cpp's log on stderr.")] = False,
    session: Annotated[
        Path | None,
        typer.Option(
            "--session",
            help="Go on with the chat in this file, if there is one, and keep it there after every reply.",
            rich_help_panel=_CONVERSATION,
        ),
    ] = None,
    when_full: Annotated[
        Literal["drop", "stop"] | None,
        typer.Option(
            "--when-full",
            help="When the context is full: drop the oldest turns (never the system prompt) until half of it is free, "
            "or stop and say so. [drop]",
            show_default=False,
            rich_help_panel=_CONVERSATION,
        ),
    ] = None,
    template: TemplateChoices,
    show_reasoning: Annotated[
        bool,
        typer.Option(
            "--show-reasoning",
            help="Show what it thinks, instead of how long.",
            rich_help_panel=_template_options.PANEL,
        ),
    ] = False,
    sampling: SamplingChoices,
    draft: Annotated[
        Path | None,
        typer.Option(
            "--draft",
            metavar="MODEL",
            help="A small model of the same vocabulary, whose drafts MODEL checks several at a time, while that is "
            "faster.",
            show_default=False,
            rich_help_panel=_engine_options.PANEL,
        ),
    ] = None,
    draft_max: Annotated[
        int,
        typer.Option(
            "--draft-max",
            min=1,
            max=64,
            help="Most drafted tokens checked at once.",
            rich_help_panel=_engine_options.PANEL,
        ),
    ] = 8,
    engine: EngineChoices,
    placement: PlacementChoices,
) -> None:
    """Talk to a model. In a terminal: Ctrl-C stops a reply, Ctrl-D leaves, /help lists more.

    With a PROMPT, or with piped text, it answers once; only the answer goes to stdout.
    """
    from ggufkit.cli import _chat
    from ggufkit.inference.options import EngineOptions

    # Whatever makes no sense is refused before the model is fetched or loaded.
    chosen, where = sampling.options(), placement.options()
    wishes = _chat.Wishes(
        sampling=chosen,
        system=system,
        max_tokens=predict,
        template=template.chat_template,
        template_values=_chat.template_values(template.chat_template_kwargs),
        reasoning=template.reasoning,
        show_reasoning=show_reasoning,
        when_full=when_full,
        session=session,
        single_turn=single_turn,
        json=json,
        verbose=verbose,
    )
    question = _chat.question(prompt, wishes)
    path = _model.resolve(model, kind="gguf", quiet=json)
    small = _model.resolve(draft, kind="gguf", quiet=json) if draft else None
    options = EngineOptions(**engine.options(path), **where, most_drafted=draft_max if small else 0)
    _chat.run(path, question, options, replace(wishes, draft=small))
