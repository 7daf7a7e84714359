"""Chunks are read alike however many threads share them out, and however many lie side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from numpy.typing import NDArray

from ggufkit.errors import LlamaCppError
from ggufkit.inference.chunk_reader import ChunkReader
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention
from ggufkit.llamacpp import native

pytestmark = pytest.mark.engine

LENGTH, CHUNKS = 512, 19  # four are read at once; the last group is not full


@pytest.fixture(scope="module")
def chunks() -> list[list[int]]:
    return np.random.default_rng(5).integers(0, len(tiny_model.vocabulary()[0]), (CHUNKS, LENGTH)).tolist()


def read(path: Path, chunks: list[list[int]], threads: int, length: int = LENGTH) -> list[NDArray[np.float32]]:
    """Read chunks; see that each is told once, in order, and what its threads may do."""
    told: list[tuple[int, int]] = []

    def work(number: int, logits: NDArray[np.float32], may_use: int) -> tuple[int, NDArray[np.float32]]:
        told.append((number, may_use))
        return number, logits.copy()

    with ChunkReader.reading(path, length, EngineOptions(threads=threads)) as reader:
        found = list(reader.each(chunks, work))
    assert [number for number, _ in found] == list(range(len(chunks)))
    assert sorted(number for number, _ in told) == list(range(len(chunks)))
    assert all(1 <= may_use <= threads for _, may_use in told)
    return [logits for _, logits in found]


@pytest.fixture(scope="module")
def with_one(random_model: Path, chunks: list[list[int]]) -> list[NDArray[np.float32]]:
    return read(random_model, chunks, 1)


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the threads of every context that is made."""
    made: list[int] = []
    make = native.Context

    def noted(*arguments: Any, **options: Any) -> native.Context:
        made.append(options["threads_batch"])
        return make(*arguments, **options)

    monkeypatch.setattr(native, "Context", noted)
    return made


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_read_for_themselves_compute_the_same(
    threads: int,
    random_model: Path,
    chunks: list[list[int]],
    with_one: list[NDArray[np.float32]],
    contexts: list[int],
):
    for found, wanted in zip(read(random_model, chunks, threads), with_one, strict=True):
        assert np.array_equal(found, wanted)
    assert contexts == [1] * threads


def test_threads_share_a_context_where_memory_is_too_small_for_more(
    random_model: Path,
    chunks: list[list[int]],
    with_one: list[NDArray[np.float32]],
    contexts: list[int],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("ggufkit.inference.chunk_reader._MOST_FOR_READERS", 1_000_000)
    for found, wanted in zip(read(random_model, chunks, 2), with_one, strict=True):
        assert np.array_equal(found, wanted)
    assert contexts == [2]


def test_logits_are_those_of_the_second_half(
    random_model: Path, chunks: list[list[int]], with_one: list[NDArray[np.float32]]
):
    exact = EngineOptions(
        threads=1,
        context_size=LENGTH,
        flash_attention=FlashAttention.OFF,
        cache_type_k=CacheType.F32,
        cache_type_v=CacheType.F32,
    )
    with Engine.open(random_model, exact) as engine:
        for number in (0, 7, CHUNKS - 1):
            begun = [engine.bos if engine.wants_bos else chunks[number][0], *chunks[number][1:]]
            wanted = engine.logits(begun)[LENGTH // 2 :]
            assert np.abs(with_one[number] - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("length", "readers"), [(64, 1), (128, 1), (250, 1), (256, 1), (300, 1), (510, 1), (512, 2), (1024, 2)]
)
def test_lengths_that_would_be_rounded_otherwise_are_read_together(
    length: int, readers: int, random_model: Path, contexts: list[int]
):
    """What is computed of a chunk must not depend on the number of threads."""
    chunks = np.random.default_rng(6).integers(0, len(tiny_model.vocabulary()[0]), (33, length)).tolist()
    found = read(random_model, chunks, 2, length)
    assert len(contexts) == readers
    for one, other in zip(found, read(random_model, chunks, 1, length), strict=True):
        assert np.array_equal(one, other)


def test_one_may_stop_asking(random_model: Path, chunks: list[list[int]], contexts: list[int]):
    begun: list[int] = []

    def work(number: int, logits: NDArray[np.float32], may_use: int) -> int:
        begun.append(number)
        return int(logits.argmax())

    with ChunkReader.reading(random_model, LENGTH, EngineOptions(threads=2)) as reader:
        results = reader.each(chunks, work)
        next(results)
        results.close()
        seen = len(begun)
        assert seen < CHUNKS
    assert len(begun) == seen  # nobody reads any more
    assert len(contexts) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_of_the_work_is_raised(threads: int, random_model: Path, chunks: list[list[int]]):
    def work(number: int, logits: NDArray[np.float32], may_use: int) -> int:
        if number == 9:
            raise LlamaCppError("the ninth")
        return number

    with ChunkReader.reading(random_model, LENGTH, EngineOptions(threads=threads)) as reader:
        found = reader.each(chunks, work)
        with pytest.raises(LlamaCppError, match="the ninth"):
            list(found)
