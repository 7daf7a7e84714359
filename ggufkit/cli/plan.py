"""`ggufkit plan`: what every type would cost and bring, before anything is downloaded, converted or written."""

import re
from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _model, _options, _output
from ggufkit.inference.options import CacheType, FlashAttention

_MEMORY = "Memory"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            show_default=False,
            help="A checkpoint folder, a GGUF file, or owner/repo[@revision] on the hub; only headers are read.",
        ),
    ],
    types: Annotated[
        str | None, typer.Option("--types", metavar="TYPE,…", help="Plan for these types only.", show_default=False)
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plan with this importance matrix.", show_default=False)
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Plan also from a source that is quantized already.")
    ] = False,
    context_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            min=0,
            max=_options.MOST_TOKENS,
            show_default=False,
            help="Tokens of context; 0: as the model was trained for. Default: as chat, at most 8192.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    cache_type_k: Annotated[
        CacheType, typer.Option("-ctk", "--cache-type-k", help="How keys are stored.", rich_help_panel=_MEMORY)
    ] = CacheType.F16,
    cache_type_v: Annotated[
        CacheType, typer.Option("-ctv", "--cache-type-v", help="How values are stored.", rich_help_panel=_MEMORY)
    ] = CacheType.F16,
    flash_attention: Annotated[
        FlashAttention, typer.Option("-fa", "--flash-attn", help="Fused attention.", rich_help_panel=_MEMORY)
    ] = FlashAttention.AUTO,
    ram: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            show_default=False,
            help="The memory that it must fit in, such as 8GB. Default: this machine's.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    vram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", show_default=False, help="A GPU's, such as 12GB.", rich_help_panel=_MEMORY),
    ] = None,
    threads: _options.Threads = None,
    no_speed: Annotated[
        bool, typer.Option("--no-speed", help="Do not measure how fast this machine is (two seconds, once).")
    ] = False,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Measure it again, as when the machine was busy the first time.")
    ] = False,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the name of the recommended type.")] = False,
) -> None:
    """Show what every type of a model would cost: its exact size, memory, speed, and the loss to expect.

    Nothing is written. Of a repository on the hub only its config, tokenizer and headers are fetched.
    """
    from ggufkit.cli import _plan_view
    from ggufkit.errors import UsageError
    from ggufkit.planning.plan import PlanOptions, plan
    from ggufkit.quantization.imatrix import coverage
    from ggufkit.quantization.plan import QuantizeOptions
    from ggufkit.quantization.types import TYPES, quantization_type

    on_hub = _model.name_on_hub(source)
    if on_hub is None and not _model.is_here(Path(source)):
        raise _model.no_such(Path(source))
    if on_hub is not None and on_hub.quantization is not None:
        raise UsageError(f"{source}: a plan is for all types at once", hint=f"ggufkit plan {on_hub.repository}")
    if imatrix is not None:
        coverage(imatrix)  # what is no matrix is refused here, once, and not by every type
    planned = plan(
        source,
        PlanOptions(
            context_size=context_size,
            cache_type_k=cache_type_k.value,
            cache_type_v=cache_type_v.value,
            flash_attention=flash_attention.value,
            ram=parse_size(ram, "--ram") if ram else None,
            vram=parse_size(vram, "--vram") if vram else None,
            threads=threads,
            measure_speed=not no_speed,
            measure_again=measure_again,
            types=[quantization_type(name) for name in types.split(",") if name] if types else TYPES,
            quantize=QuantizeOptions(imatrix=imatrix, allow_requantize=allow_requantize),
        ),
    )
    if not planned.rows:
        reasons = "; ".join(dict.fromkeys(planned.refused.values()))
        raise UsageError(f"nothing can be made of {source}: {reasons}")
    for warning in planned.warnings:
        _output.warn(warning)
    if as_json:
        _output.print_json(_plan_view.document(planned))
    elif quiet:
        print(planned.advice.choice.row.name if planned.advice else planned.rows[0].name)
    else:
        _plan_view.show(planned)


def parse_size(text: str, option: str) -> int:
    """Read `8GB`, `8G`, `7.5 GiB` or `800M` as bytes; a bare number means GB, powers of ten unless it has an `i`.

    Raises:
        UsageError: it is nothing of the kind.
    """
    from ggufkit.errors import UsageError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?)?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"{option} {text!r} is no size", hint=f"such as {option} 8GB")
    exponent = "kmgt".index((found[2] or "g").lower()) + 1
    return int(float(found[1]) * (1024 if found[3] else 1000) ** exponent)
