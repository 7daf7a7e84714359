"""`ggufkit generate`: one answer on stdout, or the answers to a file of prompts; for scripts and pipes."""

from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _model, _options, _sampling_options
from ggufkit.cli._engine_options import EngineChoices
from ggufkit.cli._placement_options import PlacementChoices
from ggufkit.cli._sampling_options import SamplingChoices
from ggufkit.cli._template_options import TemplateChoices

_PROMPT = "The prompt"
_BATCH = "A file of prompts"


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
            metavar="PROMPT",
            help="What to answer; - or nothing: what is piped. Piped text is put in front of a PROMPT.",
            show_default=False,
        ),
    ] = None,
    predict: Annotated[
        int | None,
        typer.Option(
            "-n", "--predict", min=-1, help="Most tokens of a reply, at least 1; -1: no limit. [-1]", show_default=False
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="End before this text. May be given several times.", show_default=False),
    ] = None,
    json: _options.Json = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs",
            metavar="N",
            min=0,
            help="With --json or --batch: how likely each token was, and the N likeliest beside it.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Nothing on stderr but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show llama.cpp's log on stderr.")] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Continue the text as it is, without a chat template; control tokens in it count.",
            rich_help_panel=_PROMPT,
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option("-sys", "--system", help="Tell the model how to behave.", rich_help_panel=_PROMPT),
    ] = None,
    template: TemplateChoices,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch",
            metavar="IN.jsonl",
            help='Answer every line, {"prompt": ...} or {"messages": [...]}, many at once.',
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT.jsonl",
            help="Where the answers go, in the order of the prompts.",
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            "-np",
            "--parallel",
            min=1,
            max=255,
            help="Prompts answered at once. Default: 64, or as many as there is memory for.",
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Begin anew, instead of where a killed run was interrupted.", rich_help_panel=_BATCH
        ),
    ] = False,
    sampling: SamplingChoices,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos", help="Go on when the model wants to end.", rich_help_panel=_sampling_options.PANEL
        ),
    ] = False,
    engine: EngineChoices,
    placement: PlacementChoices,
) -> None:
    """Answer a prompt, or every line of a file: made for scripts and pipes.

    Only the answer goes to stdout, byte for byte, without the reasoning (--json has both); everything else goes to
    stderr. With --batch, lines that cannot be answered are reported and skipped, and the exit code is 3; a run that was
    killed goes on with the same command.
    """
    from ggufkit.cli import _chat, _generate
    from ggufkit.inference.options import EngineOptions

    # Whatever makes no sense is refused before the model is fetched or loaded.
    chosen, where = sampling.options(), placement.options()
    wishes = _generate.Wishes(
        sampling={**chosen, "ignore_eos": True} if ignore_eos else chosen,
        max_tokens=predict,
        stop=tuple(stop or ()),
        top_scores=logprobs,
        raw=raw,
        system=system,
        template=template.chat_template,
        template_values=_chat.template_values(template.chat_template_kwargs),
        reasoning=template.reasoning,
        prompt=prompt,
        batch=batch,
        output=output,
        parallel=parallel,
        again=again,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
    question = _generate.question(wishes)
    path = _model.resolve(model, kind="gguf", quiet=json or quiet)
    _generate.run(path, question, EngineOptions(**engine.options(path), **where), wishes)
