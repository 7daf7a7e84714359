"""What errors of embeddings do, foretold by sums, and measured by putting such errors into a model."""

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import random_models

import ggufkit
from ggufkit.allocation.refinement.lookups import errors_of, lookup_moments, memory_needed
from ggufkit.allocation.refinement.readings import Inputs, places
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.gguf_file.reader import read_header

pytestmark = pytest.mark.engine
DEMO = Path(ggufkit.__file__).parent / "demo_model"
LENGTH, CHUNKS = 256, 70
NAME = "token_embd.weight"
Floats = np.ndarray


class Bench:
    """A trained model, a copy of it whose embeddings may be overwritten, and text that the model knows."""

    def __init__(self, folder: Path) -> None:
        self.model, self.copy = folder / "demo-F16.gguf", folder / "copy.gguf"
        ggufkit.convert(DEMO, self.model)
        shutil.copy(self.model, self.copy)
        (folder / "text.txt").write_text(random_models.text(100_000), encoding="utf-8")
        (tokens,) = passes.tokenize(self.model, [folder / "text.txt"], folder, Running(threads=1))
        self.chunks = tokens[: CHUNKS * LENGTH].reshape(CHUNKS, LENGTH)
        self.matrices = {
            tensor.name: np.array(tensor.data, np.float32)
            for tensor in gguf.GGUFReader(self.model).tensors
            if len(tensor.shape) > 1
        }
        wanted = [name for name in self.matrices if name != NAME]
        self.readers = places(self.model, wanted, self.chunks[0].tolist(), 1)
        self.rows = self.matrices[NAME]

    def write(self, errors: Floats) -> Floats:
        """Put errors into the copy; return what they became in F16."""
        (tensor,) = (each for each in read_header(self.copy).tensors if each.name == NAME)
        values = np.memmap(self.copy, "<f2", "r+", tensor.offset, shape=self.rows.shape)
        values[:] = (self.rows + errors).astype(np.float16)
        values.flush()
        return np.array(values, np.float32) - self.rows

    def sums(self) -> tuple[Floats, Floats]:
        errors = self.write(errors_of(self.rows))
        found = lookup_moments(
            self.model, self.copy, errors, self.readers, self.matrices.__getitem__, self.chunks, threads=1
        )
        return found[0].given, found[1].given

    def measured(self, errors: Floats) -> float:
        """Return what errors change in the outputs of all matrices, squared and relative, for each unit of theirs."""
        errors = self.write(errors)
        first = [names[0] for names in self.readers]
        total = 0.0
        with (
            Inputs(self.model, first, length=LENGTH, threads=1) as plain,
            Inputs(self.copy, first, length=LENGTH, threads=1) as other,
        ):
            for chunk in self.chunks[:4].tolist():
                plain.read(chunk)
                other.read(chunk)
                for names in self.readers:
                    inputs, changed = plain.found[names[0]], other.found[names[0]]
                    for name in names:
                        weights = self.matrices[name]
                        change, outputs = (changed - inputs) @ weights.T, inputs @ weights.T
                        total += float(np.square(change).sum() / np.square(outputs).sum()) / 4
        return total / float(np.square(errors).sum(axis=1).mean())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("lookups"))


@pytest.fixture(scope="module")
def sums(bench: Bench) -> tuple[Floats, Floats]:
    return bench.sums()


def test_directions_of_errors_do_what_is_foretold(bench: Bench, sums: tuple[Floats, Floats]) -> None:
    learned, _ = sums
    values, vectors = np.linalg.eigh(learned)
    assert values[0] > 0
    chance = np.random.default_rng(1)
    size = 0.1 * float(np.sqrt(np.square(bench.rows).mean()))
    foretold, measured = [], []
    width = len(values)
    for part in (slice(0, width // 8), slice(width // 2, 5 * width // 8), slice(-width // 8, None)):
        directions = vectors[:, part]
        errors = size * (chance.standard_normal((len(bench.rows), directions.shape[1])) @ directions.T)
        measured.append(bench.measured(errors.astype(np.float32)))
        foretold.append(values[part].mean())
    assert foretold == sorted(foretold)
    assert measured == sorted(measured)
    assert measured[2] / measured[0] > 3
    # What other tokens' errors do is measured, and not foretold.
    assert all(0.8 < found / told < 2 for found, told in zip(measured, foretold, strict=True))


def test_both_parts_of_the_text_tell_nearly_the_same(sums: tuple[Floats, Floats]) -> None:
    learned, held = sums
    assert learned.shape == held.shape
    np.testing.assert_allclose(learned, learned.T, rtol=1e-9)
    alike = np.sum(learned * held) / np.linalg.norm(learned) / np.linalg.norm(held)
    assert alike > 0.8


def test_the_same_text_gives_the_same_sums(bench: Bench, sums: tuple[Floats, Floats]) -> None:
    np.testing.assert_array_equal(bench.sums()[0], sums[0])


def test_errors_are_small_and_always_the_same() -> None:
    rows = np.random.default_rng(3).standard_normal((200, 64)).astype(np.float32) * 5
    found = errors_of(rows)
    assert found.dtype == np.float32
    assert np.sqrt(np.square(found).mean() / np.square(rows).mean()) == pytest.approx(0.1, rel=0.02)
    np.testing.assert_array_equal(found, errors_of(rows))


def test_memory_is_that_of_two_sums_for_each_reader() -> None:
    assert memory_needed([256, 768], 256) == 2 * 4 * 256 * (256 + 768)
