"""Options that say how large the best file is to be, for `optimize` and for `quantize` in place of a type."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ggufkit.allocation.targets import Target

PANEL = "The best file of a size"


@dataclass(frozen=True, kw_only=True)
class SizeChoices:
    """A group of options; each may be given several times."""

    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE[,TYPE...]",
            show_default=False,
            rich_help_panel=PANEL,
            help="As large as this preset would be, such as Q4_K_M. May be given several times, as the next two.",
        ),
    ] = None
    target_size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE", show_default=False, rich_help_panel=PANEL, help="At most so large: 4.5GB, 4200MiB."
        ),
    ] = None
    target_bpw: Annotated[
        list[float] | None,
        typer.Option(
            metavar="BITS", show_default=False, rich_help_panel=PANEL, help="At most so many bits per weight: 4.6."
        ),
    ] = None

    def targets(self) -> "tuple[Target, ...]":
        """Read the sizes that were given. Raises as `_optimize_words.targets_of`."""
        from ggufkit.cli._optimize_words import targets_of

        return targets_of(self.like or [], self.target_size or [], self.target_bpw or [])
