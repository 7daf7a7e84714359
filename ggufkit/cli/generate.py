"""`ggufkit generate`: one answer on stdout, or the answers to a file of prompts; for scripts and pipes."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ggufkit.cli import _engine_options as engine
from ggufkit.cli import _model, _options
from ggufkit.cli import _placement_options as placement
from ggufkit.cli import _sampling_options as sampling

_PROMPT = "The prompt"
_BATCH = "A file of prompts"


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="A GGUF file (of a split model, the first), or owner/repo[:QUANT] on the hub.", show_default=False
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
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
        typer.Option("--stop", help="End before this text. May be repeated.", show_default=False),
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
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            help="Jinja file to use in place of the model's own template.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    template_values: Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs",
            metavar="JSON",
            help="More values for the template, as one JSON object.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    reasoning: Annotated[
        Literal["on", "off", "auto"] | None,
        typer.Option(
            "--reasoning",
            help="Whether the model thinks before it answers; auto: as its template has it. Only the answer goes to "
            "stdout; --json has both. [auto]",
            show_default=False,
            rich_help_panel=_PROMPT,
        ),
    ] = None,
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
    temperature: sampling.Temperature = None,
    top_k: sampling.TopK = None,
    top_p: sampling.TopP = None,
    min_p: sampling.MinP = None,
    repeat_penalty: sampling.RepeatPenalty = None,
    repeat_last_n: sampling.RepeatLastN = None,
    presence_penalty: sampling.PresencePenalty = None,
    frequency_penalty: sampling.FrequencyPenalty = None,
    seed: sampling.Seed = None,
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos", help="Go on when the model wants to end.", rich_help_panel=sampling.PANEL),
    ] = False,
    grammar: sampling.Grammar = None,
    json_schema: sampling.JsonSchema = None,
    profile: engine.Profile = "auto",
    threads: engine.Threads = None,
    threads_batch: engine.ThreadsBatch = None,
    context_size: engine.ContextSize = None,
    batch_size: engine.BatchSize = None,
    micro_batch_size: engine.MicroBatchSize = None,
    flash_attention: engine.FlashAttentionMode = None,
    cache_type_k: engine.CacheTypeK = None,
    cache_type_v: engine.CacheTypeV = None,
    load_mode: engine.Loading = None,
    lora: engine.Lora = None,
    gpu_layers: placement.GpuLayers = "auto",
    tensor_split: placement.TensorSplit = None,
    main_gpu: placement.MainGpu = 0,
    split_mode: placement.SplitMode = "layer",
    override_tensor: placement.OverrideTensor = None,
    n_cpu_moe: placement.CpuMoe = 0,
    rpc: placement.Rpc = None,
) -> None:
    """Answer a prompt, or every line of a file: made for scripts and pipes.

    Only the answer goes to stdout, byte for byte; everything else goes to stderr. With --batch, lines that cannot be
    answered are reported and skipped, and the exit code is 3; a run that was killed goes on with the same command.
    """
    from ggufkit.cli import _chat, _generate
    from ggufkit.inference.options import EngineOptions

    # Whatever makes no sense is refused before the model is fetched or loaded.
    chosen = sampling.sampling_options(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=repeat_last_n,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        grammar=grammar,
        json_schema=json_schema,
    )
    where: dict[str, Any] = placement.engine_options(
        gpu_layers=gpu_layers,
        tensor_split=tensor_split,
        main_gpu=main_gpu,
        split_mode=split_mode,
        override_tensor=override_tensor,
        n_cpu_moe=n_cpu_moe,
        rpc=rpc,
    )
    wishes = _generate.Wishes(
        sampling={**chosen, "ignore_eos": True} if ignore_eos else chosen,
        max_tokens=predict,
        stop=tuple(stop or ()),
        top_scores=logprobs,
        raw=raw,
        system=system,
        template=chat_template,
        template_values=_chat.template_values(template_values),
        reasoning=reasoning,
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
    how = engine.engine_options(
        path,
        profile,
        threads=threads,
        threads_batch=threads_batch,
        context_size=context_size,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        flash_attention=flash_attention,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        load_mode=load_mode,
        lora=lora,
    )
    _generate.run(path, question, EngineOptions(**how, **where), wishes)
