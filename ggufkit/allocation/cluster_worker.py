"""What a node of a cluster does: it keeps copies of the files in a folder of its own, and measures with them.

Ray makes actors of `Worker`; nothing here knows Ray. All workers of a node share the folder, which the last of them
removes.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ggufkit.allocation.making import Making
from ggufkit.allocation.measuring import children_side_by_side, copy_file
from ggufkit.allocation.measuring_child import MeasuringRequest
from ggufkit.errors import GgufkitError
from ggufkit.evaluation.child_process import refusal
from ggufkit.llamacpp.find import find


class Worker:
    """Measures on one node, in one process; `number` tells the workers of a run apart."""

    def __init__(self, run: str, number: int) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"ggufkit-cluster-{os.getuid()}-{run}"
        self._own = self._folder / f"worker-{number}"
        self._here: dict[str, Path] = {}

    def introduce(self) -> tuple[str, str, str]:
        """Return the node's name, ggufkit's version, and which llama.cpp it has; or why it has none."""
        from ggufkit import __version__

        try:
            build = find().library("llama").resolve()
            return socket.gethostname(), __version__, f"{build.name} {build.stat().st_size}"
        except GgufkitError as error:
            return socket.gethostname(), __version__, f"no llama.cpp ({error})"

    def missing(self, files: Mapping[str, tuple[str, int]]) -> list[str]:
        """Look for files (path -> SHA-256, size) at their own paths and among those received; list what is not there.

        A path on a disk that all nodes share needs no copy.
        """
        self._own.mkdir(parents=True, exist_ok=True)
        for path, (digest, size) in files.items():
            for place in (Path(path), self._received(path)):
                with contextlib.suppress(OSError):
                    if place.stat().st_size == size and _sha256(place) == digest:
                        self._here[path] = place
                        break
        return [path for path in files if path not in self._here]

    def receive(self, path: str, offset: int, content: bytes) -> None:
        """Take a piece of a file; offset 0 begins it."""
        place = self._received(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb" if offset == 0 else "r+b") as file:
            file.seek(offset)
            file.write(content)

    def measure(self, request: MeasuringRequest) -> tuple[list[str], str]:
        """Answer a request whose paths are those of the asker; return lines of the ledger, or a refusal."""
        here = self._here
        # The parts of a split model are found beside each other.
        scratches = tuple(self._own / "scratch" / Path(path).name for path in request.sources)
        results = self._own / "results.jsonl"
        results.unlink(missing_ok=True)
        try:
            for source, scratch in zip(request.sources, scratches, strict=True):
                if not scratch.exists():
                    scratch.parent.mkdir(exist_ok=True)
                    copy_file(here[source], scratch)
            ours = replace(
                request,
                sources=tuple(str(here[path]) for path in request.sources),
                scratches=tuple(map(str, scratches)),
                tokens=str(here[request.tokens]),
                base=str(here[request.base]),
                importance=str(here[request.importance]) if request.importance else "",
                results=str(results),
            )
            path = self._own / "request.json"
            ours.write(path)
            children_side_by_side("ggufkit.allocation.measuring_child", [path], lambda _: None)
        except (GgufkitError, OSError) as error:
            return [], _refusal(error)
        return results.read_text().splitlines(), ""

    def compare(self, making: Making) -> tuple[bytes, str]:
        """Make the file of a candidate and let it read; return the scores, float32, or a refusal."""
        here, options = self._here, making.options
        model, scores = self._own / "candidate.gguf", self._own / "candidate.scores"
        scores.unlink(missing_ok=True)
        try:
            if options.imatrix:
                options = replace(options, imatrix=here[str(options.imatrix.absolute())])
            ours = replace(
                making,
                sources=tuple(str(here[path]) for path in making.sources),
                options=options,
                request=replace(
                    making.request,
                    model=str(model),
                    tokens=str(here[making.request.tokens]),
                    base=str(here[making.request.base]),
                    scores=str(scores),
                    report=str(scores.with_suffix(".json")),
                ),
            )
            ours.make()
            path = self._own / "candidate.request.json"
            ours.request.write(path)
            children_side_by_side("ggufkit.evaluation.likelihood.child", [path], lambda _: None)
            return scores.read_bytes(), ""
        except (GgufkitError, OSError) as error:
            return b"", _refusal(error)
        finally:
            model.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove what this worker keeps, and the folder when it was the last."""
        shutil.rmtree(self._own, ignore_errors=True)
        if not any(self._folder.glob("worker-*")):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _received(self, path: str) -> Path:
        # By the folder, for the parts of a split model are found beside each other.
        return self._folder / hashlib.sha256(str(Path(path).parent).encode()).hexdigest()[:16] / Path(path).name


def _refusal(error: GgufkitError | OSError) -> str:
    if isinstance(error, GgufkitError):
        return refusal(error)
    return json.dumps({"message": str(error), "hint": None, "kind": "OutputError"})


def files_of(request: MeasuringRequest) -> Sequence[str]:
    """List the files that a request reads."""
    named = (*request.sources, request.tokens, request.base, request.importance)
    return [path for path in named if path]


def describe(paths: Sequence[str]) -> Mapping[str, tuple[str, int]]:
    """Return the SHA-256 and the size of files, by their paths."""
    return {path: (_sha256(Path(path)), Path(path).stat().st_size) for path in paths}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
