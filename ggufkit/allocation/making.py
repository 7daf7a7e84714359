"""What is asked about a candidate: how its file is made of the model, and what that is to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.evaluation.likelihood.request import Request
from ggufkit.progress import Progress, silent
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.types import quantization_type


@dataclass(frozen=True, slots=True)
class Making:
    """A file that `quantize` makes of `sources` (all parts of a model) as `label`, with these options; and a request.

    `request` compares the file with what the base says; its `model` and `scores` are where the two go.
    """

    sources: tuple[str, ...]
    label: str
    options: QuantizeOptions
    request: Request

    def make(self, progress: Progress = silent) -> None:
        """Make the file. Raises as `quantize`."""
        kind, model = quantization_type(self.label), Path(self.request.model)
        quantize(Path(self.sources[0]), kind, model, self.options, progress=progress)

    @property
    def files(self) -> Sequence[str]:
        """List the files that are read."""
        matrix = [str(self.options.imatrix.absolute())] if self.options.imatrix else []
        return [*self.sources, self.request.tokens, self.request.base, *matrix]
