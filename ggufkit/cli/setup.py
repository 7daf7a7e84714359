"""`ggufkit setup`: build llama.cpp once and install its Python binding; a second run only looks."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _options, _output

if TYPE_CHECKING:
    from ggufkit.llamacpp.setup import SetupResult, Step

_TITLES = {"source": "source tree", "llama.cpp": "llama.cpp", "binding": "Python binding", "check": "loads and runs"}


def command(
    cuda: Annotated[bool, typer.Option("--cuda", help="NVIDIA GPUs (needs nvcc).")] = False,
    vulkan: Annotated[bool, typer.Option("--vulkan", help="Most GPUs, through Vulkan (needs glslc).")] = False,
    metal: Annotated[bool, typer.Option("--metal", help="Apple GPUs (the default on a Mac).")] = False,
    rocm: Annotated[bool, typer.Option("--rocm", help="AMD GPUs (needs ROCm).")] = False,
    blas: Annotated[bool, typer.Option("--blas", help="OpenBLAS for long prompts on the CPU.")] = False,
    cmake_args: Annotated[
        list[str] | None,
        typer.Option(
            "--cmake-args",
            metavar="ARGS",
            help="More arguments for cmake, as -DNAME=VALUE. May be given several times.",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Compilers at once.")] = None,
    sdist: Annotated[
        Path | None,
        typer.Option("--sdist", metavar="FILE", help="Use this llama-cpp-python source distribution, no download."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again although there is a build.")] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove the build, its source and its cache, then stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Build llama.cpp for this machine and install its Python binding (once; minutes)."""
    from ggufkit.llamacpp import setup
    from ggufkit.llamacpp.build import BuildOptions

    if clean:
        folders, size = setup.clean(dry_run=dry_run)
        if as_json:
            _output.print_json({"removed": [str(folder) for folder in folders], "bytes": size, "dry_run": dry_run})
        elif not quiet:
            for folder in folders:
                print(f"{'would remove' if dry_run else 'removed'} {folder}", file=sys.stderr)
            print(f"{_output.size(size)} {'to free' if dry_run else 'freed'}", file=sys.stderr)
        return
    chosen = {"cuda": cuda, "vulkan": vulkan, "metal": metal, "rocm": rocm, "blas": blas}
    options = setup.SetupOptions(
        build=BuildOptions(
            backends=tuple(name for name, wanted in chosen.items() if wanted),
            cmake_args=tuple(word for text in cmake_args or () for word in shlex.split(text)),
            jobs=jobs,
        ),
        sdist=sdist,
        force=force,
        dry_run=dry_run,
    )
    silent = quiet or as_json
    with _output.progress_bar(quiet=silent) as progress:
        result = setup.set_up(options, progress=progress, on_step=(lambda _: None) if silent else _print_step)
    if as_json:
        _output.print_json(_document(result))
    elif quiet:
        print(result.folder)
    else:
        print(f"llama.cpp {result.commit} in {result.folder}, {result.seconds:.1f} s", file=sys.stderr)


def _print_step(step: "Step") -> None:
    state = {"there": "already there", "needed": f"would {step.detail}", "done": step.detail}[step.state]
    seconds = f"{step.seconds:7.1f} s" if step.state == "done" else " " * 9
    print(f"{_TITLES[step.name]:15}{seconds}  {state}", file=sys.stderr, flush=True)


def _document(result: "SetupResult") -> dict[str, object]:
    steps = [{**dataclasses.asdict(step), "seconds": round(step.seconds, 2)} for step in result.steps]
    return {
        "version": result.version,
        "commit": result.commit,
        "folder": str(result.folder),
        "seconds": round(result.seconds, 2),
        "steps": steps,
    }
