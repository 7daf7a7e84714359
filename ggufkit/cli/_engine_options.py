"""Options that say how a model runs, for every command that runs one, with llama.cpp's names.

All are None when not given, so that a profile (`ggufkit tune`) can fill in what the user left open: the command line
comes first, then the profile.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ggufkit.cli import _options
from ggufkit.inference.options import CacheType, FlashAttention, LoadMode

PANEL = "How the model runs"


def _adapters(texts: list[str] | None) -> list[str] | None:
    for text in texts or ():
        if text.rpartition(":")[0] and not _scale(text) and not Path(text).exists():
            raise typer.BadParameter(f"{text!r} is not FILE or FILE:SCALE, as in style.gguf:0.8")
        scaled = _scale(text)
        path = Path(scaled[1] if scaled and not Path(text).exists() else text)
        if not path.exists():
            from ggufkit.errors import InputError

            raise InputError(f"no such adapter: {path}")
    return texts


def _scale(text: str) -> re.Match[str] | None:
    return re.fullmatch(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", text, re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class EngineChoices:
    """A group of options; what is None was not given."""

    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="auto|none|FILE",
            help="Settings that `ggufkit tune` found; auto: those for this model on this machine, if there are.",
            rich_help_panel=PANEL,
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            "-t",
            "--threads",
            min=1,
            max=_options.MOST_THREADS,
            help="CPU threads. Default: the profile's, else the physical cores that we may use.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    threads_batch: Annotated[
        int | None,
        typer.Option(
            "-tb",
            "--threads-batch",
            min=1,
            max=_options.MOST_THREADS,
            help="CPU threads for prompts; default: as -t.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    context_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            min=0,
            max=_options.MOST_TOKENS,
            help="Tokens of context; 0: as many as the model was trained for. Default: the same, but at most 8192.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "-b",
            "--batch-size",
            min=1,
            help="Tokens of a prompt handed over in one call. [2048]",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            "-ub",
            "--ubatch-size",
            min=1,
            help="Tokens of a prompt computed at once. [512; less where attention is not fused]",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    flash_attention: Annotated[
        FlashAttention | None,
        typer.Option(
            "-fa",
            "--flash-attn",
            help="Fused attention; auto: not on a CPU with a context above 1024. [auto]",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    cache_type_k: Annotated[
        CacheType | None,
        typer.Option(
            "-ctk", "--cache-type-k", help="How keys are stored. [f16]", show_default=False, rich_help_panel=PANEL
        ),
    ] = None
    cache_type_v: Annotated[
        CacheType | None,
        typer.Option(
            "-ctv", "--cache-type-v", help="How values are stored. [f16]", show_default=False, rich_help_panel=PANEL
        ),
    ] = None
    load_mode: Annotated[
        LoadMode | None,
        typer.Option(
            "-lm", "--load-mode", help="How weights come into memory. [auto]", show_default=False, rich_help_panel=PANEL
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            callback=_adapters,
            help="Add a LoRA adapter (GGUF). May be given several times.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None

    def options(self, model: Path) -> dict[str, Any]:
        """Return keyword arguments of `EngineOptions`: what was given, over what the profile says.

        Raises:
            InputError: the profile named cannot be read.
        """
        from ggufkit.inference.profile import find_profile

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value for name, value in given.items() if value is not None and name not in {"profile", "lora"}}
        if found := find_profile(model, self.profile):
            chosen = found.fill_in(chosen)
        if self.lora:
            chosen["adapters"] = tuple(_adapter(text) for text in self.lora)
        return chosen


def _adapter(text: str) -> Any:
    from ggufkit.inference.options import LoraAdapter

    scaled = _scale(text)
    if scaled and not Path(text).exists():
        return LoraAdapter(Path(scaled[1]), float(scaled[2]))
    return LoraAdapter(Path(text))
