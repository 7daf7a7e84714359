"""What a model writes by itself, to be refined by as well: it shows what the calibration text does not.

A process of its own writes, for the model may be broken; the request (JSON) names the model and the file of tokens.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.evaluation.child_process import ask, refusing
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.progress import Progress

_CHILD = "ggufkit.allocation.refinement.own_writing"
_WRITTEN, _STAGE = "written:", "Writing to learn from"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    model: str
    count: int
    length: int
    tokens: str
    running: Running = field(default_factory=Running)


def own_writing(
    model: Path, count: int, chunks: Chunks, running: Running, folder: Path, progress: Progress
) -> NDArray[np.int32]:
    """Let a model write so many chunks, int32 [count, chunk length].

    Raises:
        LlamaCppError: it failed, or died.
    """
    if not count:
        return np.empty((0, chunks.length), np.int32)
    folder.mkdir(parents=True, exist_ok=True)
    tokens, path = folder / "own-writing.i32", folder / "own-writing.json"
    request = _Request(
        model=str(model.absolute()), count=count, length=chunks.length, tokens=str(tokens.absolute()), running=running
    )
    path.write_text(json.dumps(asdict(request)))

    def on_line(line: str) -> None:
        if line.startswith(_WRITTEN):
            progress(_STAGE, int(line.removeprefix(_WRITTEN)), count, "steps")

    progress(_STAGE, 0, count, "steps")
    ask(_CHILD, path, str(model), on_line)
    return np.fromfile(tokens, "<i4").reshape(count, chunks.length)


def main() -> None:
    """In the child: write what the request asks for, whose path is the argument."""
    from ggufkit.inference.free_writing import FreeWriter  # here, for who only asks has no use for an engine

    with refusing() as path:
        content = json.loads(path.read_text())
        request = _Request(**{**content, "running": Running(**content["running"])})
        done = 0
        with (
            FreeWriter.open(Path(request.model), request.running.options()) as writer,
            Path(request.tokens).open("wb") as file,
        ):
            for texts in writer.write(request.count, request.length):
                file.write(texts.astype("<i4").tobytes())
                done += len(texts)
                sys.stdout.write(f"{_WRITTEN} {done}\n")
                sys.stdout.flush()
