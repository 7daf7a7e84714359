"""The child of a baseline: loads the model, times it, gives the logits of chunks, and answers prompts and choices.

Lines on stdout that begin with `MARK` are for the parent, JSON each: {"stage", "done", "total"}. A chunk's logits go to
a file that the parent scores and removes; the next chunk waits for that, so that at most one lies on the disk, and the
parent's arithmetic does not disturb. At the end comes the file of answers, or beside it one that says why not.
"""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from .adapter import CannotRunError, Job, Model

MARK = "ggufkit-baseline:"
REFUSED = 3
_PATIENCE = 0.002  # seconds
_LONGEST_TIMING = 120.0  # seconds, after which no more repeats are begun


def main() -> None:
    """Do what the job asks for whose path is the second argument; the first is `prepare` or `measure`."""
    task, path = sys.argv[1], Path(sys.argv[2])
    job = Job.read(path)
    try:
        adapter = import_module(f".{job.module}", __package__)
        if task == "prepare":
            adapter.prepare(job)
        else:
            answers = _measure(job, adapter)
            partial = Path(f"{job.output}.part")
            partial.write_text(json.dumps(answers))
            partial.replace(job.output)
    except CannotRunError as error:
        _refuse(job, str(error))
    except ImportError as error:
        _refuse(job, f"cannot import what it needs: {_line(error)}")
    except MemoryError:
        _refuse(job, "there is not enough memory")
    except Exception as error:  # noqa: BLE001 - a table row is all that the parent makes of it
        _refuse(job, f"{type(error).__name__}: {_line(error)}")


def _measure(job: Job, adapter: Any) -> dict[str, Any]:
    for name in job.imports:
        import_module(name)
    _threads(job.threads)
    started = time.monotonic()
    model: Model = adapter.load(job)
    answers: dict[str, Any] = {
        "load_seconds": time.monotonic() - started,
        "loaded_bytes": _memory("VmRSS"),
        **_bench(job, model),
    }
    answers["peak_bytes"] = _memory("VmHWM")  # before the logits of whole chunks, which only measuring needs
    answers["weight_bytes"] = model.weight_bytes()
    _chunks(job, model)
    answers["replies"] = []
    for number, prompt in enumerate(job.prompts):
        tokens = list(model.generate(prompt, job.most, frozenset(job.stops)))
        answers["replies"].append({"tokens": tokens, "finish_reason": "length" if len(tokens) == job.most else "stop"})
        _say("answering", number + 1, len(job.prompts))
    answers["weights"] = []
    for number, (prompt, choices) in enumerate(job.choices):
        answers["weights"].append([_log_likelihood(model, prompt, choice, job) for choice in choices])
        _say("choosing", number + 1, len(job.choices))
    answers["versions"] = _versions(job.distributions)
    return answers


def _bench(job: Job, model: Model) -> dict[str, Any]:
    """Time prompts and replies as llama-bench does: each from an empty context, after once untimed."""
    prompt: list[float] = []
    generated: list[float] = []
    begun = time.monotonic()
    for number in range(job.repeats + 1 if job.bench_tokens else 0):
        if prompt and time.monotonic() - begun > _LONGEST_TIMING:
            break
        _say("timing", number, job.repeats + 1)
        started = time.monotonic()
        next(model.generate(job.bench_tokens, 1, ()))
        read = time.monotonic()
        for _ in model.generate(job.bench_tokens[:1], job.bench_generated, ()):
            pass
        done = time.monotonic()
        if number:
            prompt.append(len(job.bench_tokens) / (read - started))
            generated.append(job.bench_generated / (done - read))
    return {"prompt_samples": prompt, "generation_samples": generated}


def _chunks(job: Job, model: Model) -> None:
    for number in range(job.done, len(job.chunks)):
        found = model.logits(job.chunks[number], job.first)
        if found.shape[1] < job.vocabulary_size:
            raise CannotRunError(
                f"its vocabulary has {found.shape[1]} entries, and the GGUF file's {job.vocabulary_size}"
            )
        path = Path(f"{job.logits}{number}.f32")
        partial = path.with_suffix(".part")
        found[:, : job.vocabulary_size].astype("<f4").tofile(partial)
        partial.replace(path)
        _say("reading", number + 1, len(job.chunks))
        while path.exists():
            time.sleep(_PATIENCE)


def _log_likelihood(model: Model, prompt: Any, choice: Any, job: Job) -> float:
    import numpy as np

    found = model.logits([*prompt, *choice], len(prompt) - 1)[:-1, : job.vocabulary_size].astype(np.float64)
    largest = found.max(axis=1)
    total = largest + np.log(np.exp(found - largest[:, None]).sum(axis=1))
    return float((found[np.arange(len(choice)), list(choice)] - total).sum())


def _threads(count: int) -> None:
    """Tell torch; others heed the variables that the parent has set."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(count)


def _memory(key: str) -> int:
    """Return a figure of this process in bytes; what getrusage tells may be what the parent had when it forked."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    """Name the versions of Python and of the packages that count, as far as they are there."""
    found = {"python": platform.python_version()}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _say(stage: str, done: int, total: int) -> None:
    sys.stdout.write(f"\n{MARK} {json.dumps({'stage': stage, 'done': done, 'total': total})}\n")
    sys.stdout.flush()


def _refuse(job: Job, why: str) -> None:
    Path(f"{job.output}.why").write_text(why)
    sys.stdout.flush()
    os._exit(REFUSED)  # threads of libraries may be in no state to end


def _line(error: BaseException) -> str:
    """Return the first telling line of a message, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:240]
