"""llama-bench: its options, running it, and its results with every column that it reports.

    results = bench.run(BenchOptions(models=(path,), threads=(4, 8)))

Options that take several values are tuples; llama-bench measures every combination. An empty tuple leaves its default.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ggufkit.errors import LlamaCppError, UsageError
from ggufkit.llamacpp import run as process
from ggufkit.llamacpp.find import find

_TOOL = "llama-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure. The names are those of llama-bench's columns where it has one.

    Attributes:
        models: GGUF files.
        n_prompt: lengths of prompts to read; 0: none.
        n_gen: numbers of tokens to generate; 0: none.
        prompt_and_gen: pairs of both, measured together.
        n_depth: tokens that are in the context already.
        n_batch: tokens handed over in one call.
        n_ubatch: tokens computed at once.
        type_k: storage types of keys, as ggml names them.
        type_v: storage types of values.
        n_threads: CPU threads, for reading and for generating.
        cpu_mask: CPUs to stay on, hexadecimal.
        cpu_strict: whether each thread stays on one CPU.
        poll: how eagerly threads wait, 0 to 100.
        n_gpu_layers: layers held by GPUs; -1: all.
        n_cpu_moe: blocks whose experts stay with the CPU.
        split_mode: none, layer, row or tensor.
        main_gpu: index of the device for everything that is not split.
        no_kv_offload: keep keys and values away from the GPU.
        flash_attn: on, off or auto.
        devices: devices to use, names with `/` between them.
        load_mode: auto, none, mmap, mlock, mmap+mlock or dio.
        lazy_mode: on, off or auto.
        embeddings: compute embeddings instead of logits.
        tensor_split: shares of the devices, with `/` between them.
        override_tensor: PATTERN=BUFFER_TYPE, with `;` between them.
        no_op_offload: leave operations on weights in memory to the CPU.
        no_host: go around the host's buffers, so that others can be used.
        repack: rearrange weights for the CPU.
        repetitions: how often each test is repeated.
        warmup: run each test once before it is measured.
        priority: of the process, -1 to 3.
        delay: seconds between tests.
        numa: distribute, isolate or numactl.
        rpc: HOST:PORT of workers.
        fit_target: MiB of memory to leave free on each device, when the model is to be fitted to them.
        fit_ctx: smallest context to fit for.
    """

    models: tuple[Path, ...]
    n_prompt: tuple[int, ...] = ()
    n_gen: tuple[int, ...] = ()
    prompt_and_gen: tuple[tuple[int, int], ...] = ()
    n_depth: tuple[int, ...] = ()
    n_batch: tuple[int, ...] = ()
    n_ubatch: tuple[int, ...] = ()
    type_k: tuple[str, ...] = ()
    type_v: tuple[str, ...] = ()
    n_threads: tuple[int, ...] = ()
    cpu_mask: tuple[str, ...] = ()
    cpu_strict: tuple[bool, ...] = ()
    poll: tuple[int, ...] = ()
    n_gpu_layers: tuple[int, ...] = ()
    n_cpu_moe: tuple[int, ...] = ()
    split_mode: tuple[str, ...] = ()
    main_gpu: tuple[int, ...] = ()
    no_kv_offload: tuple[bool, ...] = ()
    flash_attn: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    load_mode: tuple[str, ...] = ()
    lazy_mode: tuple[str, ...] = ()
    embeddings: tuple[bool, ...] = ()
    tensor_split: tuple[str, ...] = ()
    override_tensor: tuple[str, ...] = ()
    no_op_offload: tuple[bool, ...] = ()
    no_host: tuple[bool, ...] = ()
    repack: tuple[bool, ...] = ()
    repetitions: int = 5
    warmup: bool = True
    priority: int | None = None
    delay: int | None = None
    numa: str | None = None
    rpc: tuple[str, ...] = ()
    fit_target: tuple[int, ...] = ()
    fit_ctx: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what llama-bench would not understand. Raises UsageError."""
        if not self.models:
            raise UsageError("there is no model to measure")
        if self.repetitions < 1:
            raise UsageError("repetitions must be positive")
        for name in _FLAGS:
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else ():
                if isinstance(value, str) and ("," in value or value.startswith("-")):
                    raise UsageError(f"{name} takes several values as a tuple, not as {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One test. Speeds are in tokens per second, times in nanoseconds; `columns` holds everything that was reported.

    A test of reading has `n_gen` 0, one of generating `n_prompt` 0; with both, the tokens of both are counted.
    """

    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_prompt: int
    n_gen: int
    n_depth: int
    n_threads: int
    n_batch: int
    n_ubatch: int
    avg_ts: float
    stddev_ts: float
    samples_ts: tuple[float, ...]
    samples_ns: tuple[int, ...]
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def test(self) -> str:
        """Name the test as llama-bench does: `pp512`, `tg128`, `pp512+tg128`, with ` @ d4096` behind it."""
        parts = ([f"pp{self.n_prompt}"] if self.n_prompt else []) + ([f"tg{self.n_gen}"] if self.n_gen else [])
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")


# Columns that say how a test was run, with the option's short name.
_SETTINGS = {
    "n_threads": "t",
    "n_batch": "b",
    "n_ubatch": "ub",
    "type_k": "ctk",
    "type_v": "ctv",
    "flash_attn": "fa",
    "n_gpu_layers": "ngl",
    "n_cpu_moe": "ncmoe",
    "split_mode": "sm",
    "main_gpu": "mg",
    "no_kv_offload": "nkvo",
    "devices": "dev",
    "load_mode": "lm",
    "lazy_mode": "lzm",
    "embeddings": "embd",
    "tensor_split": "ts",
    "tensor_buft_overrides": "ot",
    "no_op_offload": "nopo",
    "no_host": "no-host",
    "repack": "repack",
    "cpu_mask": "C",
    "cpu_strict": "cpu-strict",
    "poll": "poll",
    "use_mmap": "mmp",
}


def settings_told_apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of each row of results of one model what only some of them have: `ub 8, fa on`; nothing where all are alike.

    Rows are llama-bench's columns by name, each a test of its own.
    """
    differ = {
        column: option
        for column, option in _SETTINGS.items()
        if len({str(row[column]) for row in rows if column in row}) > 1
    }
    return [", ".join(f"{option} {_word(row.get(column))}" for column, option in differ.items()) for row in rows]


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


_FLAGS = {
    "n_prompt": "-p",
    "n_gen": "-n",
    "n_depth": "-d",
    "n_batch": "-b",
    "n_ubatch": "-ub",
    "type_k": "-ctk",
    "type_v": "-ctv",
    "n_threads": "-t",
    "cpu_mask": "-C",
    "cpu_strict": "--cpu-strict",
    "poll": "--poll",
    "n_gpu_layers": "-ngl",
    "n_cpu_moe": "-ncmoe",
    "split_mode": "-sm",
    "main_gpu": "-mg",
    "no_kv_offload": "-nkvo",
    "flash_attn": "-fa",
    "devices": "-dev",
    "load_mode": "-lm",
    "lazy_mode": "-lzm",
    "embeddings": "-embd",
    "tensor_split": "-ts",
    "override_tensor": "-ot",
    "no_op_offload": "-nopo",
    "no_host": "--no-host",
    "repack": "--repack",
    "priority": "--prio",
    "delay": "--delay",
    "numa": "--numa",
    "rpc": "-rpc",
    "fit_target": "-fitt",
    "fit_ctx": "-fitc",
}


def argv(tool: Path, options: BenchOptions) -> list[str]:
    """Return the command line; results are asked for as one JSON document a line."""
    command = [str(tool), "-o", "jsonl", "-r", str(options.repetitions)]
    for model in options.models:
        command += ["-m", str(model)]
    for name, flag in _FLAGS.items():
        value = getattr(options, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if values:
            command += [flag, ",".join(_text(each) for each in values)]
    for prompt, generated in options.prompt_and_gen:
        command += ["-pg", f"{prompt},{generated}"]
    if not options.warmup:
        command.append("--no-warmup")
    return command


def run(options: BenchOptions, *, on_result: Callable[[BenchResult], None] | None = None) -> tuple[BenchResult, ...]:
    """Measure; `on_result` gets every result as it comes.

    Raises:
        LlamaCppError: llama-bench failed, or wrote what cannot be understood.
        MissingDependencyError: the build lacks it, or there is none.
    """
    results: list[BenchResult] = []

    def take(line: str) -> None:
        if line.startswith("{"):
            results.append(parse(line))
            if on_result:
                on_result(results[-1])

    process.run(argv(find().tool(_TOOL), options), on_line=take)
    if not results:
        raise LlamaCppError("llama-bench measured nothing", hint="ask for a prompt or for generated tokens")
    return tuple(results)


def parse(line: str) -> BenchResult:
    """Read one result. Raises LlamaCppError when it is none."""
    try:
        columns = json.loads(line)
        values = {each.name: columns[each.name] for each in fields(BenchResult) if each.name != "columns"}
        values["samples_ts"] = tuple(float(value) for value in columns["samples_ts"])
        values["samples_ns"] = tuple(int(value) for value in columns["samples_ns"])
        return BenchResult(**values, columns=columns)
    except (ValueError, KeyError, TypeError) as error:
        raise LlamaCppError(f"llama-bench wrote a result that cannot be understood ({error}): {line[:200]}") from None


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
