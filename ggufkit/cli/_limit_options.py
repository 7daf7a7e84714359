"""Options that say what a model must keep of its base: limits on what was measured."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ggufkit.evaluation.gates import Gates

PANEL = "What a file must keep to be shipped"


@dataclass(frozen=True, kw_only=True)
class LimitChoices:
    """A group of options."""

    max_kld: Annotated[
        float | None,
        typer.Option(min=0.0, show_default=False, rich_help_panel=PANEL, help="Largest mean KL divergence."),
    ] = None
    max_ppl_increase: Annotated[
        str | None,
        typer.Option(
            metavar="3%|0.03", show_default=False, rich_help_panel=PANEL, help="Largest increase of perplexity."
        ),
    ] = None
    min_same_top: Annotated[
        str | None,
        typer.Option(
            metavar="95%|0.95",
            show_default=False,
            rich_help_panel=PANEL,
            help="How often the likeliest token must be the same.",
        ),
    ] = None
    min_task_accuracy: Annotated[
        str | None,
        typer.Option(
            metavar="90%|0.9",
            show_default=False,
            rich_help_panel=PANEL,
            help="How many answers of each task must be right.",
        ),
    ] = None

    def gates(self) -> "Gates":
        """Return the limits. Raises UsageError for what is no share."""
        from ggufkit.errors import UsageError
        from ggufkit.evaluation.gates import Gates, fraction

        def share(text: str | None, flag: str) -> float | None:
            value = None if text is None else fraction(text, flag)
            if value is not None and value > 1 and flag.startswith("--min"):
                raise UsageError(f"{flag} {text!r} is more than all", hint=f"such as {flag} 95%")
            return value

        return Gates(
            max_kld=self.max_kld,
            max_ppl_increase=share(self.max_ppl_increase, "--max-ppl-increase"),
            min_same_top=share(self.min_same_top, "--min-same-top"),
            min_task_accuracy=share(self.min_task_accuracy, "--min-task-accuracy"),
        )
