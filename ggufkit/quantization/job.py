"""What is to be done for one type: a plan, and the file or files that it goes to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ggufkit.files import PlannedFile
from ggufkit.progress import Progress
from ggufkit.quantization.plan import QuantizationPlan


@dataclass(frozen=True, slots=True)
class Job:
    """One type, planned, and the file or files that it goes to.

    `on_lattice` is filled by who does it: tensors whose weights were on a 4-bit lattice and are stored as they were.
    """

    plan: QuantizationPlan
    output: Path
    outputs: tuple[Path, ...] = field(default=())
    on_lattice: set[str] = field(default_factory=set)

    @property
    def files(self) -> list[PlannedFile]:
        """The files to be written, with their sizes."""
        return [PlannedFile(path, size) for path, size in zip(self.outputs, self.plan.part_bytes, strict=True)]


Work: TypeAlias = Callable[[Sequence[Job], Progress], Iterator[tuple[Job, float]]]
"""Does jobs, all of one source; yields each when its files are whole and have their names, with the seconds it took."""
