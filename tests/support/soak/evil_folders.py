"""Model folders that carry code, under every command that is given a folder or runs in one: nothing of it may run."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import evil_folder

import ggufkit
from soak import Row, Trial

_SECONDS = 900  # a baseline may be measured
_INPUT, _UNSAFE = 3, 4
_GOES_ON = ("worker", "--port", "0")

# In the folder itself, where Python would look for modules first; each with the exit codes that are right.
_OPTIMIZED = ("-c", "64", "--pool", "Q8_0,Q4_0", "--state", "{out}/state", "-o", "{out}/optimized.gguf")
_NOBODY = "ray://127.0.0.1:1"
COMMANDS: tuple[tuple[tuple[str, ...], set[int]], ...] = (
    (("convert", ".", "-o", "{out}/again.gguf"), {0}),
    (("convert", ".", "-o", "{out}/again.gguf", "--converter", "llama.cpp"), {_UNSAFE}),
    (("verify", "{model}", "."), {0, 7}),
    (("inspect", "."), {0}),
    (("inspect", "{model}", "--template"), {0}),
    (("chat", "{model}", "hi", "--single-turn"), {_INPUT}),
    (("quantize", ".", "Q8_0", "-o", "{out}/q.gguf"), {0}),
    (("merge-lora", ".", "{adapter}", "-o", "{out}/merged"), {0}),
    (("check", "."), {0}),
    (("plan", "."), {0}),
    (("convert", ".", "--vocab-only", "-o", "{out}/v.gguf"), {0}),
    (("convert", ".", "--dry-run", "-o", "{out}/d.gguf"), {0}),
    (("convert", "{owned}", "-o", "{out}/o.gguf"), {_INPUT}),
    (("convert", "{owned}", "--converter", "llama.cpp", "-o", "{out}/o.gguf"), {_UNSAFE}),
    (("convert", "{pickled}", "-o", "{out}/p.gguf"), {_UNSAFE}),
    (("inspect", "{pickled}"), {_UNSAFE}),
    (("check", "{pickled}"), {_UNSAFE}),
    (("quantize", "{pickled}", "Q8_0", "-o", "{out}/p.gguf"), {_UNSAFE}),
    (("convert-lora", "{adapter}", "--base", ".", "-o", "{out}/a.gguf"), {0}),
    (("eval", ".", "{model}", "-f", "{text}", "-c", "64", "--chunks", "1"), {0}),
    (("eval", "{model}", "{model}", "-f", "{text}", "-c", "64", "--chunks", "1", "--bench"), {0}),
    (("imatrix", "{model}", "-f", "{text}", "-o", "{out}/i.gguf", "-c", "64"), {0}),
    (("generate", "{model}", "hi", "-n", "2", "--raw"), {0}),
    (("serve", ".", "--port", "0"), {_INPUT}),
    (("diff", "{model}", "{model}"), {0}),
    (("bench", "{model}", "-p", "8", "-n", "4", "-r", "1"), {0}),
    (("export", "ollama", "{model}", "evil", "--template", "go", "--modelfile", "{out}/Modelfile"), {0, _INPUT}),
    (("doctor",), {0, 1}),
    (("optimize", ".", "--target-bpw", "9", "--effort", "fast", "-f", "{long}", *_OPTIMIZED), {0, _INPUT}),
    (("optimize", ".", "--target-bpw", "9", "--sensitivity", "fisher", "-f", "{long}", *_OPTIMIZED), {0, _INPUT}),
    (("optimize", "{pickled}", "--target-bpw", "9", "-f", "{text}", *_OPTIMIZED), {_UNSAFE}),
    (("optimize", "{model}", "--target-bpw", "9", "-f", "{text}", "--workers", _NOBODY, *_OPTIMIZED), {2, _INPUT}),
    (("eval", ".", "{model}", "-f", "{text}", "-c", "64", "--chunks", "1", "--against", "transformers"), {0, _INPUT}),
    (("eval", "{model}", "--against", "all", "--checkpoint", ".", "-f", "{text}", "--chunks", "1"), {0, _INPUT}),
    (("eval", "{pickled}", "{model}", "-f", "{text}", "-c", "64", "--chunks", "1"), {_UNSAFE}),
    (("eval", "{model}", "{model}", "-f", "{text}", "-c", "64", "--chunks", "1", "-o", "{out}/run.json"), {0}),
    (("report", "{run}", "-o", "{out}/run.html"), {0}),
    (("tune", "{model}", "--seconds", "1", "--dry-run"), {0}),
    (("worker", "--port", "0"), {0, 143}),  # ended before or after it listens for signals
    (("worker", "--list", "127.0.0.1:1"), {0, _INPUT, 6}),
    (("edit", "{model}", "--set", "general.name=x", "-o", "{out}/e.gguf"), {0}),
    (("edit", "{model}", "--metadata", "config.json", "-o", "{out}/e.gguf"), {0, 2, _INPUT}),
    (("list", "."), {0}),
    (("rm", "no-such-model", "-y"), {2, _INPUT}),
    (("pull", "evil/folder"), {_INPUT}),
    (("push", "{model}", "some/body", "--dry-run", "-o", "{out}/README.md"), {0}),
    (("export", "hub", "{model}", "some/body", "--dry-run", "-o", "{out}/README.md"), {0}),
    (("export", "lmstudio", "{model}", "some/body", "--folder", "{out}"), {0}),
    (("setup", "--dry-run"), {0, _INPUT}),
    (("generate", "{model}", "--batch", "{prompts}", "-n", "1", "-o", "{out}/a.jsonl"), {0, _INPUT}),
    (("quantize", "Q8_0", "{model}", "--recipe", "config.json", "-o", "{out}/q.gguf"), {2, _INPUT}),
    (("imatrix", ".", "-f", "{text}", "-o", "{out}/i.gguf", "-c", "64"), {0, _INPUT}),
)


def _run(arguments: Sequence[str], folder: Path, trace: Path | None = None) -> tuple[int, str]:
    command = [sys.executable, "-P", "-m", "ggufkit", *arguments]
    if trace is not None:
        command = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,execve", "-o", str(trace), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder.parent / "cache")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hub")}
    if tuple(arguments) == _GOES_ON:
        return _until_it_speaks(command, folder, environment)
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stderr


def _until_it_speaks(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run what goes on until it is ended, and end it when it has said that it is ready."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        guard = threading.Timer(_SECONDS, process.kill)
        guard.start()
        said = process.stderr.readline() if process.stderr else ""
        process.terminate()
        said += process.stderr.read() if process.stderr else ""
        guard.cancel()
    return process.returncode, said


def _carried_code(trial: Trial) -> None:
    """Run every command in and on folders with code; afterwards there is no marker."""
    marker = trial.folder / "marker"
    evil = evil_folder.write(trial.folder / "evil", marker)
    places = {
        "owned": evil_folder.write(trial.folder / "owned", marker, own_classes=True),
        "pickled": evil_folder.pickled(trial.folder / "pickled", marker),
        "adapter": evil_folder.adapter(evil, trial.folder / "adapter", marker),
        "model": trial.folder / "model.gguf",
        "text": trial.folder / "text.txt",
        "long": Path(ggufkit.__file__).parent / "demo_model" / "heldout.txt",
        "prompts": trial.folder / "prompts.jsonl",
        "run": trial.folder / "run.json",
        "out": trial.folder / "out",
    }
    places["text"].write_text("some words to be read by a model, again and again. " * 200)
    code, said = _run(["convert", str(evil), "-o", str(places["model"])], trial.folder)
    if code:
        trial.broken(0, f"the good part of the folder does not convert: {said[-300:]}")
        return
    places["prompts"].write_text('{"prompt": "hi"}\n')
    for case in trial.cases():
        command, right = COMMANDS[case]
        shutil.rmtree(places["out"], ignore_errors=True)
        places["out"].mkdir()
        if "{run}" in command:
            text = ["-f", str(places["text"]), "-c", "64", "--chunks", "1", "-o", str(places["run"])]
            _run(["eval", str(places["model"]), str(places["model"]), *text], trial.folder)
        what = " ".join(command)
        try:
            code, said = _run([part.format(**places) for part in command], evil)
        except subprocess.TimeoutExpired:
            trial.broken(case, f"{what}: not done after {_SECONDS} s")
            continue
        if marker.exists():
            trial.broken(case, f"{what}: ran code of {marker.read_text()!r}")
            marker.unlink()
        if code not in right or "Traceback" in said:
            trial.broken(case, f"{what}: exit {code}, expected {right}: {said[-300:]}")


def _can_trace() -> bool:
    """Tell whether strace is there and may trace, which some containers forbid."""
    found = shutil.which("strace")
    return bool(found) and not subprocess.run([found, "-o", os.devnull, "true"], capture_output=True).returncode


def _paths_that_lead_out(trial: Trial) -> None:
    """Convert, inspect and check folders that name a file outside; strace sees whether that is opened."""
    secret = trial.folder / "secret.safetensors"
    secret.write_bytes(b"secret")
    folders = evil_folder.leading_out(trial.folder / "models", trial.folder / "marker", secret)
    jobs = [(name, job) for name in folders for job in ("convert", "inspect", "check", "convert --vocab-only")]
    trace = trial.folder / "trace" if _can_trace() else None
    for case in trial.cases():
        name, job = jobs[case % len(jobs)]
        target = ["-o", str(trial.folder / "out.gguf")] if job.startswith("convert") else []
        code, said = _run([*job.split(), str(folders[name]), *target], trial.folder, trace)
        # a vocabulary needs no weights, and reads no index
        refused = (
            {_INPUT, _UNSAFE} if "linked" in name or "shard" not in name or "vocab" not in job else {0, _INPUT, _UNSAFE}
        )
        if code not in refused or "Traceback" in said:
            trial.broken(case, f"{job} with {name}: exit {code}: {said[-300:]}")
        if trace is not None:
            trial.add("traced")
            opened = [line for line in trace.read_text(errors="replace").splitlines() if "secret.safetensors" in line]
            opened = [line for line in opened if "execve" not in line and "O_NOFOLLOW" not in line]
            if opened or any("linked.safetensors" in line for line in trace.read_text(errors="replace").splitlines()):
                trial.broken(case, f"{job} with {name}: opened {opened[:1]}")
        (trial.folder / "out.gguf").unlink(missing_ok=True)


ROWS = [
    Row(
        "evil-folders",
        f"model folders with code, pickles and templates that reach out, under {len(COMMANDS)} commands",
        "0 markers written",
        _carried_code,
        count=len(COMMANDS),
        quick=5,
        engine=True,
    ),
    Row(
        "paths-out",
        "indexes, links and modules that lead out of the folder, under 4 commands",
        "0 files read outside, exit 3 or 4",
        _paths_that_lead_out,
        count=40,
        quick=4,
    ),
]
