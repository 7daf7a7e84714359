"""Damaged small files of ours and of others: settings, sessions, prompts, results, matrices; one line, never more."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_mutants

from ggufkit.conversion import read_edits
from ggufkit.errors import GgufkitError
from ggufkit.evaluation.answers.asking import prompt_of, read_lines
from ggufkit.inference import batch_file, profile, session_file
from ggufkit.quantization import calibration, imatrix, legacy_imatrix
from ggufkit.reports import reading
from soak import Row, Trial

_CHAT = {"messages": [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "It is. " * 20}]}
_SESSION = {
    "kind": "ggufkit chat",
    "schema_version": 1,
    "model": {"file": "m.gguf", "description": "tiny"},
    "system": "Be brief.",
    "turns": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "reasoning": ""}],
    "settings": {
        "sampling": {"temperature": 0.7, "top_k": 40},
        "max_tokens": 5,
        "reasoning": "auto",
        "when_full": "drop",
    },
    "forgotten": 0,
}
_PROFILE = {
    "kind": "ggufkit profile",
    "schema_version": 1,
    "model": "m.gguf",
    "machine": "this",
    "settings": {"threads": 2, "threads_batch": 2, "micro_batch_size": 512},
    "measured": {"generation": 10.0},
}
_LOSS = {
    "perplexity": {"value": 5.0, "standard_error": 0.1},
    "kl_divergence": {"mean": 0.1, "standard_error": 0.01, "percentiles": {"99.9": 1.0}, "curve": [[50, 0.1]]},
    "domains": [{"domain": "a", "perplexity": {"value": 5.0}}],
    "tasks": [{"task": "t", "accuracy": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.5}],
}
_FILE = {"file": "a.gguf", "type": "Q4_K", "bytes": 10, "bits_per_weight": 4.5, "memory": {"model": 5}}
_RUN = {
    "kind": "evaluation",
    "schema_version": 1,
    "base": {**_FILE, "perplexity": {"value": 4.0}},
    "models": [{**_FILE, **_LOSS, "speed": {"prompt_tokens_per_second": 7.5, "peak_bytes": 10}}],
    "gates": {"max_kld": 0.5},
    "baselines": [{"name": "x", "perplexity": {"value": 4.0}, "prompt": {"median": 5}, "weight_bytes": 7}],
    "bench": [],
}
_BATCH = {"id": "1", "prompt": "hi", "max_tokens": 5, "temperature": 0.5, "stop": ["a"], "messages": None}
_TASK = {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}
_EDITS = {"general.name": "x", "general.tags": ["a", "b"], "general.version": "1"}


def _imatrix() -> bytes:
    entry = struct.pack("<i", 4) + b"blk0" + struct.pack("<ii", 10, 3) + struct.pack("<3f", 1, 2, 3)
    return struct.pack("<i", 2) + entry * 2 + struct.pack("<i", 5) + struct.pack("<i", 4) + b"text"


def _batch(path: Path) -> None:
    for line in path.read_bytes().splitlines():
        batch_file.parse(line)
        batch_file.carried(line)


def _tasks(path: Path) -> None:
    for number, line in enumerate(read_lines(path), 1):
        prompt_of(line, path, number)


def _matrix(path: Path) -> None:
    imatrix.coverage(path, any_length=True)  # which sees to the form
    legacy_imatrix.read_legacy(path)


# What a good file holds, and who reads it.
_KINDS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "chat.jsonl": ((json.dumps(_CHAT) + "\n").encode() * 2, lambda path: calibration.read_passages([path])),
    "text.md": (
        b"# A\n\nSome words of a text that goes on for a while, so that it counts.\n\n```py\nx = 1\n```\n" * 40,
        lambda path: calibration.read_passages([path]),
    ),
    "session.json": (json.dumps(_SESSION).encode(), session_file.load),
    "profile.json": (json.dumps(_PROFILE).encode(), profile.load),
    "run.json": (json.dumps(_RUN).encode(), reading.read_run),
    "batch.jsonl": ((json.dumps(_BATCH) + "\n").encode() * 2, _batch),
    "tasks.jsonl": ((json.dumps(_TASK) + "\n").encode() * 2, _tasks),
    "edits.json": (json.dumps(_EDITS).encode(), lambda path: read_edits(path, ())),
    "old.imatrix": (_imatrix(), _matrix),
}


def _damage(path: Path, good: bytes, chance: random.Random) -> None:
    path.write_bytes(good)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if path.suffix == ".jsonl" and chance.random() < 0.7:
            first = path.with_name("line.json")
            first.write_bytes(good.splitlines()[0])
            folder_mutants.change(first, chance)
            path.write_bytes(first.read_bytes() + b"\n" + good)
        else:
            folder_mutants.change(path, chance)


def _measure(trial: Trial) -> None:
    kinds = sorted(_KINDS)
    for case in trial.cases():
        name = kinds[case % len(kinds)]
        good, read = _KINDS[name]
        path = trial.folder / name
        _damage(path, good, trial.random(case))
        try:
            read(path)
            trial.add("read")
        except GgufkitError:
            trial.add("refused")
        except Exception as error:  # noqa: BLE001 - this is what must not come
            trial.broken(case, f"{name}: {type(error).__name__}: {error}; {path.read_bytes()[:200]!r}"[:500])


ROWS = [
    Row(
        "small-files",
        "10,000 damaged sessions, profiles, results, prompts, tasks, calibration texts, edits, matrices",
        "0 tracebacks",
        _measure,
        count=10_000,
        quick=600,
    )
]
