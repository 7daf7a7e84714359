"""Options that say where a model's weights go, for every command that runs one, with llama.cpp's names."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

PANEL = "Where the model goes"


def _gpu_layers(text: str) -> str:
    if text not in {"auto", "all"} and not (text.isascii() and text.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a number of layers, auto or all")
    return text


def _shares(text: str | None) -> str | None:
    if text is not None:
        try:
            shares = [float(part) for part in text.replace("/", ",").split(",")]
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not numbers with commas between them, as in 3,1") from None
        if not all(0 <= share < float("inf") for share in shares) or not sum(shares):
            raise typer.BadParameter("shares must be 0 or more, and not all 0")
    return text


def _overrides(texts: list[str] | None) -> list[str] | None:
    for text in texts or ():
        for part in text.split(","):
            pattern, separator, buffer_type = part.rpartition("=")
            if not (pattern and separator and buffer_type):
                raise typer.BadParameter(f"{part!r} is not PATTERN=DEVICE, as in '\\.ffn_.*_exps\\.=CPU'")
    return texts


@dataclass(frozen=True, kw_only=True)
class PlacementChoices:
    """A group of options."""

    gpu_layers: Annotated[
        str,
        typer.Option(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            metavar="N|auto|all",
            callback=_gpu_layers,
            help="Layers, the last ones first, on GPUs and workers; auto: as many as fit.",
            rich_help_panel=PANEL,
        ),
    ] = "auto"
    tensor_split: Annotated[
        str | None,
        typer.Option(
            "-ts",
            "--tensor-split",
            metavar="N,N,...",
            callback=_shares,
            help="What part of these layers each device gets: workers first, then GPUs. Default: by free memory.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    main_gpu: Annotated[
        int,
        typer.Option(
            "-mg", "--main-gpu", min=0, help="Device for everything, with --split-mode none.", rich_help_panel=PANEL
        ),
    ] = 0
    split_mode: Annotated[
        Literal["none", "layer", "row", "tensor"],
        typer.Option("-sm", "--split-mode", help="How devices share the model.", rich_help_panel=PANEL),
    ] = "layer"
    override_tensor: Annotated[
        list[str] | None,
        typer.Option(
            "-ot",
            "--override-tensor",
            metavar="PATTERN=DEVICE",
            callback=_overrides,
            help="Put the tensors whose names match a regular expression elsewhere. May be given several times.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    n_cpu_moe: Annotated[
        int,
        typer.Option(
            "-ncmoe",
            "--n-cpu-moe",
            min=0,
            max=10_000,
            help="Keep the experts of the first N layers with the CPU.",
            rich_help_panel=PANEL,
        ),
    ] = 0
    rpc: Annotated[
        list[str] | None,
        typer.Option(
            "--rpc",
            metavar="HOST:PORT,...",
            help="Use the memory and compute of other machines, where `ggufkit worker` runs.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None

    def options(self) -> dict[str, Any]:
        """Return keyword arguments of `EngineOptions`. Raises UsageError for workers that are no HOST:PORT."""
        from ggufkit.inference.options import SplitMode, TensorOverride
        from ggufkit.inference.placement import experts_with_cpu
        from ggufkit.llamacpp.rpc import endpoints

        pairs = [part.rpartition("=") for text in self.override_tensor or () for part in text.split(",")]
        return {
            "gpu_layers": self.gpu_layers if self.gpu_layers in {"auto", "all"} else int(self.gpu_layers),
            "tensor_split": tuple(
                float(part) for part in (self.tensor_split or "").replace("/", ",").split(",") if part
            ),
            "main_gpu": self.main_gpu,
            "split_mode": SplitMode(self.split_mode),
            "tensor_overrides": (
                *(TensorOverride(pattern, buffer_type) for pattern, _, buffer_type in pairs),
                *(TensorOverride(experts_with_cpu(block), "CPU") for block in range(self.n_cpu_moe)),
            ),
            "rpc_servers": tuple(str(endpoint) for endpoint in endpoints(self.rpc or ())),
        }
