"""`ggufkit chat`: talk to a model, or put one question to it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ggufkit.cli import _engine_options as engine
from ggufkit.cli import _model, _options
from ggufkit.cli import _placement_options as placement
from ggufkit.cli import _sampling_options as sampling

_REASONING = "Reasoning"
_CONVERSATION = "The conversation"


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="A GGUF file (of a split model, the first), or owner/repo[:QUANT] on the hub.", show_default=False
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="Ask this and leave. Piped text is put in front of it.", show_default=False)
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
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            help="Jinja file to use in place of the model's own template.",
            rich_help_panel=_CONVERSATION,
        ),
    ] = None,
    template_values: Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs",
            metavar="JSON",
            help="More values for the template, as one JSON object.",
            rich_help_panel=_CONVERSATION,
        ),
    ] = None,
    reasoning: Annotated[
        Literal["on", "off", "auto"] | None,
        typer.Option(
            "--reasoning",
            help="Whether the model thinks before it answers; auto: as its template has it. [auto]",
            show_default=False,
            rich_help_panel=_REASONING,
        ),
    ] = None,
    show_reasoning: Annotated[
        bool,
        typer.Option("--show-reasoning", help="Show what it thinks, instead of how long.", rich_help_panel=_REASONING),
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
    grammar: sampling.Grammar = None,
    json_schema: sampling.JsonSchema = None,
    draft: Annotated[
        Path | None,
        typer.Option(
            "--draft",
            metavar="MODEL",
            help="A small model of the same vocabulary, whose drafts MODEL checks several at a time, while that is "
            "faster.",
            show_default=False,
            rich_help_panel=engine.PANEL,
        ),
    ] = None,
    draft_max: Annotated[
        int,
        typer.Option(
            "--draft-max", min=1, max=64, help="Most drafted tokens checked at once.", rich_help_panel=engine.PANEL
        ),
    ] = 8,
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
    """Talk to a model. In a terminal: Ctrl-C stops a reply, Ctrl-D leaves, /help lists more.

    With a PROMPT, or with piped text, it answers once; only the answer goes to stdout.
    """
    from ggufkit.cli import _chat
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
    wishes = _chat.Wishes(
        sampling=chosen,
        system=system,
        max_tokens=predict,
        template=chat_template,
        template_values=_chat.template_values(template_values),
        reasoning=reasoning,
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
    options = EngineOptions(**how, **where, most_drafted=draft_max if small else 0)
    _chat.run(path, question, options, replace(wishes, draft=small))
