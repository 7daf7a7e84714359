"""Template bombs in every command that renders a chat template: each is refused, in time, within memory."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import template_bombs
import tiny_model

from soak import Row, Trial

_MIB = 2**20
_COMMANDS = (
    ("inspect", "{model}", "--template"),
    ("generate", "{model}", "hi", "-n", "1"),
    ("chat", "{model}", "hi", "--single-turn"),
    ("serve", "{model}", "--port", "0"),
    ("export", "ollama", "{model}", "bomb", "--template", "go", "--modelfile", "{folder}/Modelfile"),
)
_CASES = [(name, command) for name in template_bombs.BOMBS for command in _COMMANDS]
_HANG = 120.0  # seconds on a machine that is busy with other things
_STARTING = 6.0  # of the processor, for Python, llama.cpp and the command itself


def _run(arguments: list[str]) -> tuple[int, float, int, str]:
    """Run a command; its exit code (negative: the signal), its seconds of the processor, its memory, what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "ggufkit", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
    ) as process:
        guard = threading.Timer(_HANG, process.send_signal, [signal.SIGKILL])
        guard.start()
        said = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        guard.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, said


def _measure(trial: Trial) -> None:
    for case in trial.cases():
        name, command = _CASES[case]
        model = tiny_model.write(trial.folder / "m.gguf", template=template_bombs.BOMBS[name])
        arguments = [part.format(model=model, folder=trial.folder) for part in command]
        code, seconds, memory, said = _run(arguments)
        what = f"{name} in {command[0]}"
        if "Traceback" in said or code not in ((0,) if command[0] == "inspect" else (2, 3, 4)):
            trial.broken(case, f"{what}: exit {code}: {said[-300:]}")
        trial.add("refused" if code else "shown with a warning")
        trial.worst("seconds of the processor", seconds, limit=_STARTING + 3)
        trial.worst("MiB of memory", memory / _MIB, limit=600)
        Path(trial.folder / "Modelfile").unlink(missing_ok=True)


ROWS = [
    Row(
        "template-bombs",
        f"{len(template_bombs.BOMBS)} template bombs in {len(_COMMANDS)} commands",
        "0 hangs > 3 s, 0 deaths, < 600 MiB",
        _measure,
        count=len(_CASES),
        quick=0,
        engine=True,
    )
]
