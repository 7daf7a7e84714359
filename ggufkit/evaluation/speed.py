"""How fast models run: llama-bench underneath, its tests and columns, several models in turn so that all suffer alike.

llama-bench says nothing about loading, the first token and memory: those are measured by one reply of our own engine,
in a process of its own.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufkit.errors import LlamaCppError
from ggufkit.fitness import read_fit_parts
from ggufkit.llamacpp import bench, rpc
from ggufkit.llamacpp.bench import BenchOptions, BenchResult
from ggufkit.llamacpp.run import run
from ggufkit.progress import Progress, silent

SCHEMA_VERSION = 1  # of `rows`
ROUNDS_FOR_A_VERDICT = 5  # of two equal models one is the faster in all of them once in 16 times: 2 * (1/2)**5
_PROMPT_TOKENS = 128  # of the reply that tells the time to the first token


@dataclass(frozen=True, slots=True)
class TestSpeed:
    """One test of one model. Speeds are tokens per second: the median of the samples, their extremes, all of them.

    `columns` are llama-bench's own, with the samples of all rounds.
    """

    test: str
    median: float
    low: float
    high: float
    samples: tuple[float, ...]
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Start:
    """One first reply: seconds to load, seconds from the prompt (of so many tokens) to the first token, peak memory."""

    load_seconds: float
    first_token_seconds: float
    prompt_tokens: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """All that was measured of one model; `start` is None where it was not asked for, or the model does not reply."""

    path: Path
    bytes: int
    tests: tuple[TestSpeed, ...]
    start: Start | None


@dataclass(frozen=True, slots=True)
class PairedSpeed:
    """How many times as fast as the first model another one is at a test: a ratio for each round, and their median.

    `test` names the settings too where there are several.
    """

    first: Path
    second: Path
    test: str
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def is_clear(self) -> bool:
        """Whether every round says the same, of rounds enough that chance alone seldom does (5: once in 16 times)."""
        return len(self.ratios) >= ROUNDS_FOR_A_VERDICT and (min(self.ratios) > 1 or max(self.ratios) < 1)


def measure(
    options: BenchOptions, *, with_start: bool = True, progress: Progress = silent
) -> tuple[tuple[ModelSpeed, ...], tuple[PairedSpeed, ...]]:
    """Run llama-bench's tests on `options.models`. Of several models, each is measured once in every round.

    Raises:
        GgufFileError: a model is none.
        WorkerError: a machine of `options.rpc` cannot be used.
        LlamaCppError: llama-bench failed, or lost such a machine.
        MissingDependencyError: the build lacks it.
    """
    workers = rpc.endpoints(options.rpc)
    rpc.check(workers)
    sizes = {path: sum(part.file_size for part in read_fit_parts(path)) for path in options.models}
    rounds = 1 if len(options.models) == 1 else options.repetitions
    each = options.repetitions if rounds == 1 else 1
    found: list[list[tuple[BenchResult, ...]]] = [[] for _ in options.models]  # the same file may be there twice
    total = rounds * len(options.models)
    for number in range(rounds):
        for place, path in enumerate(options.models):
            progress("Measuring speed", number * len(options.models) + place, total, "steps")
            found[place].append(_run(replace(options, models=(path,), repetitions=each), workers))
    progress("Measuring speed", total, total, "steps")
    models = tuple(
        ModelSpeed(
            path,
            sizes[path],
            tuple(_merged(results) for results in zip(*found[place], strict=True)),
            _start(path, options) if with_start else None,
        )
        for place, path in enumerate(options.models)
    )
    return models, _pairs(models)


def _run(options: BenchOptions, workers: Sequence[rpc.Endpoint]) -> tuple[BenchResult, ...]:
    try:
        return bench.run(options)
    except LlamaCppError as error:
        if not workers or not ("RPC" in str(error) or _is_one_gone(workers)):
            raise
        raise LlamaCppError(
            f"{rpc.blame(workers)} while {options.models[0].name} was measured with it",
            hint=f"ggufkit worker --list {','.join(map(str, workers))} shows which workers are there",
        ) from None


def _is_one_gone(workers: Sequence[rpc.Endpoint]) -> bool:
    return any(isinstance(answer, rpc.UnreachableError) for _, answer in rpc.ask_all(workers, 2.0))


def rows(models: Sequence[ModelSpeed]) -> list[dict[str, Any]]:
    """Write one row for each test: llama-bench's columns, and ours behind them."""
    found = []
    for model in models:
        started = model.start
        ours = {
            "schema_version": SCHEMA_VERSION,
            "file_bytes": model.bytes,
            "load_seconds": started.load_seconds if started else None,
            "first_token_seconds": started.first_token_seconds if started else None,
            "first_token_prompt": started.prompt_tokens if started else None,
            "peak_bytes": started.peak_bytes if started else None,
        }
        found += [
            {
                **test.columns,
                "test": test.test,
                "median_ts": test.median,
                "min_ts": test.low,
                "max_ts": test.high,
                **ours,
            }
            for test in model.tests
        ]
    return found


def _merged(results: Sequence[BenchResult]) -> TestSpeed:
    samples = tuple(sample for result in results for sample in result.samples_ts)
    columns = dict(results[0].columns)
    columns["samples_ts"] = list(samples)
    columns["samples_ns"] = [sample for result in results for sample in result.samples_ns]
    columns["avg_ts"] = statistics.fmean(samples)
    columns["stddev_ts"] = statistics.stdev(samples) if len(samples) > 1 else 0.0
    columns["avg_ns"] = round(statistics.fmean(columns["samples_ns"]))
    columns["stddev_ns"] = round(statistics.stdev(columns["samples_ns"])) if len(samples) > 1 else 0
    return TestSpeed(results[0].test, statistics.median(samples), min(samples), max(samples), samples, columns)


def _pairs(models: Sequence[ModelSpeed]) -> tuple[PairedSpeed, ...]:
    pairs = []
    settings = bench.settings_told_apart([test.columns for test in models[0].tests])
    for other in models[1:]:
        for mine, theirs, how in zip(models[0].tests, other.tests, settings, strict=True):
            ratios = tuple(theirs / mine for mine, theirs in zip(mine.samples, theirs.samples, strict=True))
            name = f"{mine.test}, {how}" if how else mine.test
            pairs.append(PairedSpeed(models[0].path, other.path, name, ratios))
    return tuple(pairs)


def _start(path: Path, options: BenchOptions) -> Start | None:
    request = {
        "model": str(path.absolute()),
        "threads": options.n_threads[0] if options.n_threads else None,
        "gpu_layers": options.n_gpu_layers[0] if options.n_gpu_layers else "auto",
        "prompt_tokens": _PROMPT_TOKENS,
        "rpc_servers": list(options.rpc),
    }
    lines: list[str] = []
    child = "from ggufkit.evaluation.speed import start_in_child; start_in_child()"
    try:
        run([sys.executable, "-P", "-c", child, json.dumps(request)], on_line=lines.append)
    except LlamaCppError:
        return None  # an encoder, say
    return Start(**json.loads(next(line for line in reversed(lines) if line.startswith("{"))))


def start_in_child() -> None:
    """Load the model that the argument names, and reply once: what the child process does."""
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions

    request = json.loads(sys.argv[1])
    count = request["prompt_tokens"]
    layers = request["gpu_layers"]
    options = EngineOptions(
        context_size=2 * count,
        threads=request["threads"],
        gpu_layers="all" if layers == -1 else layers,
        rpc_servers=tuple(request["rpc_servers"]),
    )
    with Engine.open(Path(request["model"]), options) as engine:
        plain = [token for token in range(min(engine.vocabulary_size, 4 * count)) if not engine.is_control(token)]
        tokens = [plain[number % len(plain)] for number in range(count)]
        generation = engine.generate(tokens, max_tokens=1)
        for _ in generation:
            pass
        result = generation.result
        answer = {
            "load_seconds": engine.load_seconds,
            "first_token_seconds": result.time_to_first_token,
            "prompt_tokens": count,
            "peak_bytes": result.peak_memory,
        }
    sys.stdout.write(json.dumps(answer) + "\n")
