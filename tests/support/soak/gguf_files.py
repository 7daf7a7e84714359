"""Malformed GGUF files: our reader against llama.cpp's, and what is made of the files that both read."""

import contextlib
import time
from pathlib import Path

import gguf_mutants
from gguf_reference import Reference
from memory_peak import MemoryPeak

from ggufkit.errors import GgufFileError
from ggufkit.fitness import check_headers
from ggufkit.gguf_file.reader import read_header
from ggufkit.inspection.gguf import inspect_gguf
from soak import Row, Trial

_SECONDS = 2.0  # of a processor: how busy the machine is does not matter
_ASKED_OF_REFUSED = 50  # one in so many, to see how much stricter we are
_CONTROL = set(map(chr, [*range(32), 127, *range(128, 160)]))


def look(path: Path) -> str | None:
    """Read all that can be read without weights; return why the file was refused. Other exceptions pass."""
    try:
        header = read_header(path)
        for key in header.metadata:
            header.metadata[key]
        findings = list(check_headers([header]))
    except GgufFileError as error:
        return str(error)
    with contextlib.suppress(GgufFileError):  # it is a part of a split model
        inspect_gguf(path)
    assert not any(_CONTROL & set(finding.where) for finding in findings)
    return None


def _measure(trial: Trial) -> None:
    path = trial.folder / "model.gguf"
    memory = MemoryPeak()
    with Reference() as reference:
        for case in trial.cases():
            path.write_bytes(gguf_mutants.mutant(trial.random(case)))
            started = time.process_time()
            try:
                refused = look(path)
            except Exception as error:  # noqa: BLE001 - this is what must not come
                trial.broken(case, f"{type(error).__name__}: {error}")
                continue
            trial.worst("seconds", time.process_time() - started, limit=_SECONDS)
            if refused is None:
                trial.add("accepted by both")
                if not reference.accepts(path):
                    trial.broken(case, "accepted by us, and not by llama.cpp")
            else:
                trial.add("refused")
                if _CONTROL & set(refused):
                    trial.broken(case, f"control characters in the message: {refused!r}")
                if not case % _ASKED_OF_REFUSED and reference.accepts(path):
                    trial.add("refused by us alone, of one in 50")
        trial.add("deaths of llama.cpp's reader", reference.died)
    trial.worst("MiB of memory", memory.grown() / 2**20, limit=200)


ROWS = [
    Row(
        "gguf-mutants",
        "100,000 random GGUF mutants",
        "0 tracebacks, 0 over 2 s, 0 accepted that llama.cpp refuses, < 200 MiB",
        _measure,
        count=100_000,
        quick=400,
        engine=True,
    )
]
