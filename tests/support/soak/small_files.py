"""Damaged small files of ours and of others: settings, sessions, prompts, results, matrices; one line, never more."""

import json
import math
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_mutants
import gguf
import numpy as np

from ggufkit.allocation.ledger import Ledger
from ggufkit.conversion import read_edits
from ggufkit.errors import GgufkitError
from ggufkit.evaluation.answers import asking
from ggufkit.evaluation.workplace import remove_stale
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.inference import batch_file, batch_journal, profile, session_file
from ggufkit.quantization import calibration, imatrix, imatrix_content, legacy_imatrix
from ggufkit.quantization.importance import load_importance
from ggufkit.quantization.recipe import Recipe, RecipeText, Role
from ggufkit.quantization.recipe import file as recipe_file
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


_JOURNAL_LINES = b'{"prompt": "hello"}\n{"prompt": "there"}\n'
_MEASURED = {"name": "0" * 32, "kld": 0.01, "chunks": [0.01, 0.02], "seconds": 1.5, "tail": 0.3, "same_top": 0.98}
_REPLY = b'{"text": "four", "tokens": 1, "logprobs": [{"token": 7, "logprob": -0.5}]}\n'
_ABOUT = {"/models/m.gguf": "100 200", "text.txt": "gone"}
_RECIPE = Recipe(
    tensors={f"blk.{block}.attn_{part}.weight": TensorType.Q4_K for block in range(2) for part in "qkvo"},
    architecture="llama",
    model_name="a model",
    model_sha256="ab" * 32,
    budget_bytes=1000,
    predicted_kld=0.01,
    texts=(RecipeText(Role.CALIBRATION, "a text.txt", "cd" * 32),),
)


def _imatrix_gguf() -> bytes:
    """A matrix of two tensors, as llama-imatrix writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["text.txt"])
        writer.add_uint32("imatrix.chunk_count", 10)
        writer.add_uint32("imatrix.chunk_size", 512)
        for name in ("blk.0.attn_q.weight", "blk.0.ffn_down.weight"):
            writer.add_tensor(f"{name}.in_sum2", np.ones((1, 4), np.float32))
            writer.add_tensor(f"{name}.counts", np.full((1, 1), 10, np.float32))
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        return path.read_bytes()


def _journal() -> bytes:
    """The answers of an interrupted batch."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "prompts.jsonl", Path(folder) / "journal"
        source.write_bytes(_JOURNAL_LINES)
        journal = batch_journal.Journal(path, "these options", batch_journal.read_lines(source), again=False)
        for number in range(2):
            journal.add(number, {"id": number, "text": "an answer", "tokens": 3})
        journal.close()
        return path.read_bytes()


def _resumed(path: Path) -> None:
    source = path.with_name("prompts.jsonl")
    source.write_bytes(_JOURNAL_LINES)
    lines = batch_journal.read_lines(source)
    journal = batch_journal.Journal(path, "these options", lines, again=False)
    try:
        for number in journal.offsets:
            assert isinstance(json.loads(journal.read(number)), dict)
    finally:
        journal.close()


def _measurements(path: Path) -> None:
    for each in (Ledger(path), Ledger(path)):
        if found := each.get("0" * 32):
            assert math.isfinite(found.kld + sum(found.chunks) + found.seconds)


def _evaluation(path: Path) -> None:
    """A folder of an evaluation that was interrupted, which another one looks at."""
    folder = path.with_name("0123456789abcdef")
    folder.mkdir(exist_ok=True)
    path.replace(folder / "evaluation.json")
    remove_stale(path.parent, but=path)


def _replies(path: Path) -> None:
    asking._drop_damaged(path, asking._replies)
    if path.exists():
        asking._replies(path)


def _imatrix() -> bytes:
    entry = struct.pack("<i", 4) + b"blk0" + struct.pack("<ii", 10, 3) + struct.pack("<3f", 1, 2, 3)
    return struct.pack("<i", 2) + entry * 2 + struct.pack("<i", 5) + struct.pack("<i", 4) + b"text"


def _batch(path: Path) -> None:
    for line in path.read_bytes().splitlines():
        batch_file.parse(line)
        batch_file.carried(line)


def _tasks(path: Path) -> None:
    for number, line in enumerate(asking.read_lines(path), 1):
        asking.prompt_of(line, path, number)


def _entries(path: Path) -> None:
    for entry in imatrix_content.read_entries(path).values():
        assert entry.sums.ndim == 2
    load_importance(path)


def _matrix(path: Path) -> None:
    imatrix.coverage(path, any_length=True)  # which sees to the form
    legacy_imatrix.read_legacy(path)


# What a good file holds, and who reads it.
KINDS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
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
    "imatrix.gguf": (_imatrix_gguf(), _entries),
    "recipe.txt": (recipe_file.text(_RECIPE).encode(), recipe_file.read),
    "recipe.json": (json.dumps(recipe_file.to_json(_RECIPE)).encode(), recipe_file.read),
    "measurements.jsonl": ((json.dumps(_MEASURED) + "\n").encode() * 2, _measurements),
    "journal": (_journal(), _resumed),
    "evaluation.json": (json.dumps(_ABOUT).encode(), _evaluation),
    "replies.jsonl": (_REPLY * 2, _replies),
}


def damage(path: Path, good: bytes, chance: random.Random) -> None:
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
    kinds = sorted(KINDS)
    for case in trial.cases():
        name = kinds[case % len(kinds)]
        good, read = KINDS[name]
        path = trial.folder / name
        damage(path, good, trial.random(case))
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
        "10,000 damaged sessions, profiles, results, prompts, tasks, texts, edits, matrices, recipes, states, journals",
        "0 tracebacks",
        _measure,
        count=10_000,
        quick=600,
    )
]
