"""From a checkpoint straight to quantized files: no F16 file in between, the weights read once for all types.

The conversion's plan gives the header of the F16 file that is never written; llama-quantize, asked about that header
with a hole behind it, says which type each tensor gets; the conversion then streams its tensors, a piece at a time,
into the direct engine. The result is byte for byte what convert and llama-quantize, one after the other, would write.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.conversion import ConversionPlan, OutputType, open_plan
from ggufkit.conversion.execute import stream
from ggufkit.files import PartialFile
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.writer import TensorLayout
from ggufkit.progress import Progress
from ggufkit.quantization.direct import Sink, quantize_stream
from ggufkit.quantization.direct.output import Array
from ggufkit.quantization.plan import QuantizationPlan


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A conversion that is planned, and its file without the weights: a header, and a hole of the right size.

    Both live as long as the `with` block that made them.
    """

    conversion: ConversionPlan
    path: Path

    @property
    def identity(self) -> str:
        """Say which weights these are: another text, other weights (or the same in another folder)."""
        digest = hashlib.sha256(self.conversion.layout.header)
        for step in self.conversion.steps:
            for source in step.sources:
                digest.update(f"{source.name} {source.dtype} {source.shape} {source.position}\n".encode())
        for path in sorted(self.conversion.checkpoint.folder.iterdir()):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
        return digest.hexdigest()


@contextlib.contextmanager
def open_skeleton(checkpoint: Path, outtype: OutputType = OutputType.F16) -> Iterator[Skeleton]:
    """Plan a native conversion and make its skeleton, named after the checkpoint.

    Raises:
        As `ggufkit.conversion.open_plan`.
    """
    with open_plan(checkpoint, outtype) as conversion, tempfile.TemporaryDirectory(prefix="ggufkit-") as folder:
        name = f"{checkpoint.resolve().name}-{conversion.output_type.name}.gguf"
        path = Path(folder) / name
        with path.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
        yield Skeleton(conversion, path)


def quantize_skeleton(
    skeleton: Skeleton,
    jobs: Sequence[tuple[QuantizationPlan, PartialFile]],
    *,
    threads: int,
    progress: Progress,
    stage: str,
) -> None:
    """Convert and quantize in one pass; every plan must be one of the skeleton's.

    Raises:
        CheckpointError: the checkpoint cannot be read, or holds an element that is not finite in the type between.
        As `ggufkit.quantization.direct.quantize_stream`.
    """

    def give(sink: Sink) -> None:
        def take(target: TensorLayout, place: int, encoded: Array) -> None:
            sink.take(target.name, place - target.offset, encoded)

        def wants(target: TensorLayout, place: int) -> bool:
            return sink.wants(target.name, place - target.offset)

        stream(skeleton.conversion, take, threads=threads, progress=progress, stage=stage, wants=wants)

    quantize_stream(read_header(skeleton.path), skeleton.identity, jobs, give)
