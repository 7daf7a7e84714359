"""`ggufkit chat`: talk to a model, or put one question to it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ggufkit.cli import _model, _options
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, SamplingOptions

_ENGINE = "How the model runs"
_SAMPLING = "How tokens are chosen (default: what the model's file asks for, else as shown)"


def _gpu_layers(text: str) -> str:
    if text not in {"auto", "all"} and not text.isdecimal():
        raise typer.BadParameter("a number of layers, auto or all")
    return text


def _layers(text: str) -> int | Literal["auto", "all"]:
    return "auto" if text == "auto" else "all" if text == "all" else int(text)


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
    predict: Annotated[int, typer.Option("-n", "--predict", min=-1, help="Most tokens of a reply; -1: no limit.")] = -1,
    chat_template: Annotated[
        Path | None, typer.Option("--chat-template", help="Jinja file to use in place of the model's own template.")
    ] = None,
    json: _options.Json = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show llama.cpp's log on stderr.")] = False,
    threads: _options.Threads = None,
    threads_batch: Annotated[
        int | None, typer.Option("-tb", "--threads-batch", min=1, help="CPU threads for prompts; default: as -t.")
    ] = None,
    gpu_layers: Annotated[
        str,
        typer.Option(
            "-ngl",
            "--gpu-layers",
            metavar="N|auto|all",
            callback=_gpu_layers,
            help="Layers on the GPU; auto: all, if there is one.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    context_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            min=0,
            help="Tokens of context; 0: as many as the model was trained for. Default: the same, but at most 8192. "
            "When it is full, the oldest exchanges are dropped; the system prompt stays.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    flash_attention: Annotated[
        FlashAttention, typer.Option("-fa", "--flash-attn", help="Fused attention.", rich_help_panel=_ENGINE)
    ] = FlashAttention.AUTO,
    cache_type_k: Annotated[
        CacheType, typer.Option("-ctk", "--cache-type-k", help="How keys are stored.", rich_help_panel=_ENGINE)
    ] = CacheType.F16,
    cache_type_v: Annotated[
        CacheType, typer.Option("-ctv", "--cache-type-v", help="How values are stored.", rich_help_panel=_ENGINE)
    ] = CacheType.F16,
    temperature: Annotated[
        float | None,
        typer.Option("--temp", help="Randomness; 0: always the likeliest token. [0.8]", rich_help_panel=_SAMPLING),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Keep the k likeliest; 0: all. [40]", rich_help_panel=_SAMPLING)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Keep the likeliest up to sum p. [0.95]", rich_help_panel=_SAMPLING)
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", help="Drop those below p times the likeliest. [0.05]", rich_help_panel=_SAMPLING),
    ] = None,
    repeat_penalty: Annotated[
        float | None,
        typer.Option("--repeat-penalty", help="Against repetition; 1: off. [1.0]", rich_help_panel=_SAMPLING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("-s", "--seed", help="Same seed, same reply. Default: random.", rich_help_panel=_SAMPLING),
    ] = None,
) -> None:
    """Talk to a model. In a terminal: Ctrl-C stops a reply, Ctrl-D leaves, /help lists more.

    With a PROMPT, or with piped text, it answers once; only the answer goes to stdout.
    """
    from ggufkit.cli import _chat

    given: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    SamplingOptions(**chosen)  # refuse nonsense before the model is loaded
    _chat.run(
        _model.resolve(model, kind="gguf", quiet=json),
        prompt,
        _chat.Wishes(
            engine=EngineOptions(
                context_size=context_size,
                gpu_layers=_layers(gpu_layers),
                threads=threads,
                threads_batch=threads_batch,
                flash_attention=flash_attention,
                cache_type_k=cache_type_k,
                cache_type_v=cache_type_v,
            ),
            sampling=chosen,
            system=system,
            max_tokens=None if predict < 0 else predict,
            template=chat_template,
            single_turn=single_turn,
            json=json,
            verbose=verbose,
        ),
    )
