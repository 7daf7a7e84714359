"""`ggufkit tune`: measure which settings run a model fastest here, and keep them for chat, generate and serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _model, _options, _output
from ggufkit.inference.options import CacheType

if TYPE_CHECKING:
    from ggufkit.inference.tuning.result import TuneResult


def _cache_types(text: str | None) -> str | None:
    for name in (text or "").split(",") if text else ():
        if name not in list(CacheType):
            raise _options.NotAChoice(name, CacheType)
    return text


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=_model.HELP, show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write the profile here, for --profile FILE, instead of where it is found by itself."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="About how long it may take.")] = 120,
    cache_types: Annotated[
        str | None,
        typer.Option(
            "--cache-types",
            metavar="TYPE,...",
            callback=_cache_types,
            help="Also try these types of keys and values, as q8_0. They cost quality: without this, f16 stays.",
            show_default=False,
        ),
    ] = None,
    gpu_layers: Annotated[
        int,
        typer.Option("-ngl", "--gpu-layers", "--n-gpu-layers", min=-1, help="Layers on GPUs while measuring; -1: all."),
    ] = -1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, but keep nothing.")] = False,
    json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Measure threads, batches, flash attention and loading on this machine, and keep what is faster than the default.

    It takes a minute or two. Close what else is busy: a profile is for the machine as it was measured. The choice is
    measured a second time, in turns with the default, and kept only where it gained more than the noise.
    """
    from ggufkit.inference import profile
    from ggufkit.inference.tuning import TuneOptions, tune

    options = TuneOptions(
        seconds=seconds,
        cache_types=tuple(CacheType(name) for name in cache_types.split(",")) if cache_types else (),
        gpu_layers=gpu_layers,
    )
    path = _model.resolve(model, kind="gguf", quiet=quiet or json)
    target = output or profile.place(path).path
    if not dry_run and output:
        from ggufkit.files import check_output

        check_output(target, inputs=[path])
    with _output.progress_bar(quiet=quiet or json) as progress:
        result = tune(path, options, progress=progress)
    if not dry_run:
        result.profile().save(target)
    if json:
        _output.print_json({**result.as_json(), "profile": None if dry_run else str(target)})
    elif quiet:
        print(target)
    else:
        _show(result, None if dry_run else target)


def _show(result: "TuneResult", target: Path | None) -> None:
    from rich.markup import escape

    from ggufkit.cli import _tune_view

    console = _output.stdout()
    if result.was_busy:
        _output.warn(
            f"the machine was busy (load {result.load:.1f} on {result.cpus} CPUs): the figures hold for such a machine"
        )
    console.print(_tune_view.table(result))
    for line in _tune_view.plots(result, console.width):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if result.skipped:
        _output.note(f"no time for: {', '.join(result.skipped)} (--seconds {2 * round(result.seconds)} would do)")
    for line in _tune_view.verdict(result):
        print(line)
    if target:
        print(f"profile: {target}")
