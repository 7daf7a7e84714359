"""The direct engine writes the bytes of llama-quantize, whatever the source, the type and the importance matrix."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_gguf

from ggufkit.errors import GgufFileError, UsageError
from ggufkit.files import PartialFile
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find
from ggufkit.progress import silent
from ggufkit.quantization.direct import (
    Sink,
    library,
    quantize_stream,
    refuse_what_only_the_binary_does,
    stream_of,
)
from ggufkit.quantization.plan import QuantizeOptions, plan
from ggufkit.quantization.types import TYPES, quantization_type

pytestmark = pytest.mark.engine

WITHOUT_IMATRIX = [kind.name for kind in TYPES if not kind.needs_imatrix]
SMALL = ["Q4_0", "Q4_K_M", "Q8_0", "IQ4_XS"]


def direct(source: Path, kinds: list[str], folder: Path, options: QuantizeOptions | None = None) -> dict[str, bytes]:
    """Quantize to all types in one pass."""
    folder.mkdir(exist_ok=True)
    jobs = [(plan(source, quantization_type(kind), options), partial(folder, kind)) for kind in kinds]
    stream = stream_of(jobs[0][0].sources, library(), threads=2, progress=silent, stage="Quantizing")
    quantize_stream(read_header(source), "these weights", jobs, stream)
    return {kind: file.path.read_bytes() for kind, (_, file) in zip(kinds, jobs, strict=True)}


def partial(folder: Path, name: str) -> PartialFile:
    (folder / name).touch()
    return PartialFile(folder / name, folder / f"{name}.journal")


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("even-F16", WITHOUT_IMATRIX),
        ("even-F32", SMALL),
        ("odd-F16", SMALL),
        ("ragged-F16", ["Q8_0", "Q4_K_M"]),
        ("aligned-F16", SMALL),
    ],
)
def test_all_types_in_one_pass(model: str, kinds: list[str], models: Path, tmp_path: Path):
    source = models / f"{model}.gguf"
    kinds = [kind for kind in kinds if fits(source, kind)]
    ours = direct(source, kinds, tmp_path / "ours")
    # llama-quantize pads with 32 bytes whatever the source says; left alone it would copy a key that lies.
    flags = ["--override-kv", "general.alignment=int:32"] if model == "aligned-F16" else []
    theirs = {kind: tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", *flags) for kind in kinds}
    assert kinds
    assert [kind for kind in kinds if ours[kind] != theirs[kind]] == []


def fits(source: Path, kind: str) -> bool:
    try:
        plan(source, quantization_type(kind))
    except UsageError:
        return False
    return True


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["gguf", "legacy"])
def test_importance_matrix(form: str, models: Path, tmp_path: Path):
    write = tiny_gguf.write_imatrix if form == "gguf" else tiny_gguf.write_legacy_imatrix
    matrix = write(tmp_path / "importance")
    kinds = ["Q2_K", "Q4_K_M", "Q4_0", "IQ3_XXS", "IQ2_XXS"] if form == "gguf" else ["Q4_K_M"]
    source = models / "even-F16.gguf"
    ours = direct(source, kinds, tmp_path / "ours", QuantizeOptions(imatrix=matrix))
    for kind in kinds:
        theirs = tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", "--imatrix", matrix)
        assert ours[kind] == theirs, kind


@pytest.mark.oracle
def test_experts_have_an_importance_of_their_own(tmp_path: Path):
    source, matrix = tiny_gguf.write_experts(tmp_path / "experts.gguf", tmp_path / "importance.gguf")
    ours = direct(source, ["Q4_K_M", "IQ3_S"], tmp_path / "ours", QuantizeOptions(imatrix=matrix))
    for kind, content in ours.items():
        assert content == tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", "--imatrix", matrix), kind


@pytest.mark.oracle
def test_a_split_source_becomes_one_file(models: Path, tmp_path: Path):
    splitter = find().tool("llama-gguf-split")
    whole = models / "even-F16.gguf"
    subprocess.run([splitter, "--split-max-tensors", "8", whole, tmp_path / "part"], check=True, capture_output=True)
    first = min(tmp_path.glob("part-*.gguf"))
    ours = direct(first, ["Q4_K_M"], tmp_path / "ours")
    assert ours["Q4_K_M"] == tiny_gguf.by_hand(first, "Q4_K_M", tmp_path / "theirs.gguf")


def test_a_source_that_is_not_finite_is_refused(models: Path, tmp_path: Path):
    source = tmp_path / "nan.gguf"
    source.write_bytes((models / "even-F32.gguf").read_bytes())
    tensor = next(tensor for tensor in read_header(source).tensors if tensor.name == "blk.1.ffn_up.weight")
    with source.open("r+b") as file:
        file.seek(tensor.offset + 4 * 1000)
        file.write(np.float32("nan").tobytes())
    with pytest.raises(GgufFileError, match=r"blk\.1\.ffn_up\.weight"):
        direct(source, ["Q4_K_M"], tmp_path / "ours")


def test_a_quantized_source_is_left_to_the_binary(models: Path, tmp_path: Path):
    tiny_gguf.by_hand(models / "even-F16.gguf", "Q8_0", tmp_path / "q8.gguf")
    again = plan(tmp_path / "q8.gguf", quantization_type("Q4_K_M"), QuantizeOptions(allow_requantize=True))
    with pytest.raises(UsageError, match="Q8_0"):
        refuse_what_only_the_binary_does(again)


class Interrupted(Sink):
    """Takes a few pieces, then dies as a process would: in the middle of a line of its journal."""

    def __init__(self, sink: Sink, pieces: int) -> None:
        self._sink, self._left, self.taken = sink, pieces, []

    def wants(self, name: str, place: int) -> bool:
        return self._sink.wants(name, place)

    def take(self, name: str, place: int, rows: np.ndarray) -> None:
        if len(self.taken) == self._left:
            raise KeyboardInterrupt
        self.taken.append(name)
        self._sink.take(name, place, rows)


def interrupted(source: Path, folder: Path, pieces: int, identity: str = "these weights") -> list[str]:
    """Write `pieces` pieces of a Q4_K_M at most; return the names of the tensors that were taken."""
    job = plan(source, quantization_type("Q4_K_M"))
    taken: list[str] = []

    def stream(sink: Sink) -> None:
        wrapped = Interrupted(sink, pieces)
        try:
            stream_of([source], library(), threads=1, progress=silent, stage="")(wrapped)
        finally:
            taken.extend(wrapped.taken)

    try:
        quantize_stream(read_header(source), identity, [(job, partial(folder, "out.gguf"))], stream)
    except KeyboardInterrupt:
        with (folder / "out.gguf.journal").open("a") as journal:
            journal.write('["blk.0.ffn')
    return taken


@pytest.mark.fault
def test_an_interrupted_run_goes_on_where_it_was(models: Path, tmp_path: Path):
    source = models / "even-F16.gguf"
    first = interrupted(source, tmp_path, 5)
    second = interrupted(source, tmp_path, 7)
    last = interrupted(source, tmp_path, 10**9)
    assert (len(first), len(second)) == (5, 7)
    assert sorted(first + second + last) == sorted(tensor.name for tensor in read_header(source).tensors)
    assert (tmp_path / "out.gguf").read_bytes() == tiny_gguf.by_hand(source, "Q4_K_M", tmp_path / "theirs.gguf")


@pytest.mark.fault
def test_bytes_that_a_power_cut_lost_are_made_again(models: Path, tmp_path: Path):
    source = models / "even-F16.gguf"
    first = interrupted(source, tmp_path, 8)
    lost = next(name for name in first if "attn_norm" not in name)
    layout = {tensor.name: tensor for tensor in plan(source, quantization_type("Q4_K_M")).tensors}
    header = (tmp_path / "out.gguf").read_bytes()
    entry = next(line for line in (tmp_path / "out.gguf.journal").read_text().splitlines() if lost in line)
    offset = int(entry.split("[[")[1].split(",")[0])
    (tmp_path / "out.gguf").write_bytes(header[:offset] + bytes(18) + header[offset + 18 :])
    assert lost in layout
    assert lost in interrupted(source, tmp_path, 10**9)
    assert (tmp_path / "out.gguf").read_bytes() == tiny_gguf.by_hand(source, "Q4_K_M", tmp_path / "theirs.gguf")


@pytest.mark.fault
def test_other_weights_begin_anew(models: Path, tmp_path: Path):
    source = models / "even-F16.gguf"
    interrupted(source, tmp_path, 8, identity="other weights")
    assert len(interrupted(source, tmp_path, 10**9)) == len(read_header(source).tensors)


def test_a_disk_that_fills_is_not_taken_for_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    class FullDisk:
        def wants(self, _tensor: str, _place: int) -> bool:
            return True

        def take(self, *_piece: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = tiny_gguf.write_model(tmp_path / "model.gguf")
    stream = stream_of([model], library(), threads=1, progress=silent, stage="Reading")
    with pytest.raises(OSError, match="No space left"):
        stream(cast("Any", FullDisk()))
