"""Options that give single tensors another type than the preset does, with llama-quantize's names and our own."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ggufkit.cli import _quantize_arguments

PANEL = "Types of single tensors"


@dataclass(frozen=True, kw_only=True)
class TensorTypeChoices:
    """A group of options."""

    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES=TYPE",
            show_default=False,
            rich_help_panel=PANEL,
            help="Give modules another type, in Hugging Face's words, such as lm_head,embed_tokens=f16 or"
            " layers.0-3.mlp.down_proj=q8_0; nothing else changes. May be given several times.",
        ),
    ] = None
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=TYPE",
            show_default=False,
            rich_help_panel=PANEL,
            help="The type of the tensors whose name matches, such as attn_v=q8_0; the first match counts. As in"
            " llama-quantize, other tensors may change too. May be given several times.",
        ),
    ] = None
    tensor_type_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=PANEL, help="A file of REGEX=TYPE, parted by white space."),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=PANEL,
            help="Give every tensor the type that this recipe says, in place of TYPE: a file of `ggufkit inspect"
            " --recipe` or of an optimized model, or a GGUF model whose types are taken over.",
        ),
    ] = None
    pin: Annotated[
        bool,
        typer.Option("--pin", rich_help_panel=PANEL, help="Let --tensor-type change no other tensor."),
    ] = False
    output_tensor_type: Annotated[
        str | None, typer.Option(metavar="TYPE", rich_help_panel=PANEL, help="The tensor type of output.weight.")
    ] = None
    token_embedding_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", rich_help_panel=PANEL, help="The tensor type of the token embeddings."),
    ] = None
    leave_output_tensor: Annotated[
        bool,
        typer.Option("--leave-output-tensor", rich_help_panel=PANEL, help="Leave output.weight as it is."),
    ] = False
    pure: Annotated[
        bool,
        typer.Option("--pure", rich_help_panel=PANEL, help="Give every tensor the same type, mix nothing."),
    ] = False

    def given(self) -> Iterator[str]:
        """Yield the names of the options that were given."""
        for field in fields(self):
            if getattr(self, field.name):
                yield f"--{field.name.replace('_', '-')}"

    def options(self) -> dict[str, Any]:
        """Return keyword arguments of `QuantizeOptions`; the recipe is none of them.

        Raises:
            UsageError: an option is not of its form, or names an unknown type.
            InputError: the file of patterns cannot be read.
        """
        from ggufkit.quantization.keep import parse_keep
        from ggufkit.quantization.types import tensor_type

        return {
            "pure": self.pure,
            "leave_output_tensor": self.leave_output_tensor,
            "output_tensor_type": tensor_type(self.output_tensor_type) if self.output_tensor_type else None,
            "token_embedding_type": tensor_type(self.token_embedding_type) if self.token_embedding_type else None,
            "tensor_types": _quantize_arguments.tensor_types(self.tensor_type or [], self.tensor_type_file),
            "pin": self.pin,
            "keep": tuple(word for text in self.keep or [] for word in parse_keep(text)),
        }
