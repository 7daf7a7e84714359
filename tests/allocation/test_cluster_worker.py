"""What a node does for others, without a cluster: what it is sent it finds, the parts of a split model included."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import random_models

from ggufkit.allocation.cluster_worker import Worker, describe, files_of
from ggufkit.allocation.ledger import Ledger
from ggufkit.allocation.making import Making
from ggufkit.allocation.measuring import Measurer, Setting
from ggufkit.allocation.measuring_child import MeasuringRequest
from ggufkit.allocation.verification import Candidate, Verifier
from ggufkit.errors import GgufFileError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.request import Request, Task
from ggufkit.evaluation.likelihood.texts import cut_into_chunks
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import find
from ggufkit.progress import Progress, silent
from ggufkit.quantization.options import QuantizeOptions

pytestmark = pytest.mark.engine


class Node:
    """One worker, which cannot see the asker's files."""

    def __init__(self, name: str) -> None:
        self.worker = Worker(name, 0)

    def sent(self, files: Sequence[str]) -> None:
        described = {_away(path): what for path, what in describe(files).items()}
        for path in self.worker.missing(described):
            content = Path(path.removeprefix("/away")).read_bytes()
            middle = len(content) // 2
            self.worker.receive(path, 0, content[:middle])
            self.worker.receive(path, middle, content[middle:])
        assert self.worker.missing(described) == []

    def answer(self, request: MeasuringRequest, on_done: Callable[[int], None], progress: Progress = silent) -> None:
        self.sent(files_of(request))
        there = replace(
            request,
            sources=tuple(map(_away, request.sources)),
            tokens=_away(request.tokens),
            base=_away(request.base),
        )
        lines, refused = self.worker.measure(there)
        assert not refused
        with Path(request.results).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        on_done(len(lines))
        progress("Measuring", len(lines), len(lines), "steps")

    def compare(
        self, makings: Sequence[Making], on_found: Callable[[Making, bytes], None], progress: Progress = silent
    ) -> None:
        for making in makings:
            self.sent(making.files)
            asked = replace(making.request, tokens=_away(making.request.tokens), base=_away(making.request.base))
            there = replace(making, sources=tuple(map(_away, making.sources)), request=asked)
            scores, refused = self.worker.compare(there)
            assert not refused
            on_found(making, scores)
            progress("Reading", 1, len(makings), "steps")


def _away(path: str) -> str:
    return f"/away{path}"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("split")
    whole = random_models.write(folder / "whole-F16.gguf")
    command = [find().tool("llama-gguf-split"), "--split-max-tensors", "7", whole, folder / "part-F16"]
    subprocess.run(command, check=True, capture_output=True)
    whole.unlink()
    parts = tuple(sorted(folder.glob("part-F16-*.gguf")))
    assert len(parts) > 1
    text = folder / "text.txt"
    text.write_text(random_models.text(3000))
    running = Running(threads=1)
    tokens = passes.tokenize(parts[0], [text], folder, running)
    count = read_parts(parts[0])[0].metadata.entries["tokenizer.ggml.tokens"].count
    return Setting(parts, cut_into_chunks([text], tokens, count, length=64, chunks=4), None, (), (), running, "split")


def test_a_node_finds_of_a_split_model_what_is_found_here(setting: Setting, tmp_path: Path) -> None:
    names = [tensor.name for part in read_parts(setting.sources[0]) for tensor in part.tensors if len(tensor.shape) > 1]
    questions = [{names[0]: TensorType.Q3_K}, {names[-1]: TensorType.Q3_K}]
    types = dict.fromkeys(names, TensorType.Q4_K)
    candidate = Candidate("all", types, 0, 0.0, 0.0)

    def made(_: object, request: Request) -> Making:
        return Making(tuple(map(str, setting.sources)), "Q4_K_M", QuantizeOptions(threads=1, pure=True), request)

    node = Node(tmp_path.name)
    found = []
    try:
        for number, elsewhere in enumerate((None, node)):
            ledger, folder = Ledger(tmp_path / f"ledger-{number}"), tmp_path / f"work-{number}"
            with Measurer(setting, ledger, folder / "probing", elsewhere) as measurer:
                probes = [each.chunks for each in measurer.measure(questions)]
            with Verifier(setting, ledger, folder / "choosing", made, elsewhere) as verifier:
                [verified] = verifier.verify([candidate], silent)
            found.append((probes, verified.measured.chunks, verified.measured.tail))
        assert found[0] == found[1]
    finally:
        node.worker.leave()


def test_what_a_node_cannot_make_is_told(setting: Setting, tmp_path: Path) -> None:
    node = Node(tmp_path.name)
    try:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"GGUF")
        node.sent([str(broken)])
        place = _away(str(broken))
        request = Request(task=Task.COMPARE, model="", tokens=place, base=place)
        scores, refused = node.worker.compare(Making((place,), "Q4_K_M", QuantizeOptions(), request))
        assert not scores
        assert json.loads(refused)["kind"] == GgufFileError.__name__
    finally:
        node.worker.leave()
