"""Models that are wrong in one way, given to the commands: no command may die of one, hang or write half a file."""

from collections.abc import Sequence
from pathlib import Path

import one_fault
from command_server import CommandServer, Outcome

import ggufkit
from ggufkit.conversion import convert
from soak import Row, Trial

DEMO = Path(ggufkit.__file__).parent / "demo_model"
COMMANDS = ("check", "generate", "chat", "quantize", "inspect", "imatrix", "eval", "bench", "export", "verify")
_STATUSES = {0, 2, 3, 4, 6, 7}


def arguments(command: str, good: Path, path: Path, output: Path) -> Sequence[str | Path]:
    return {
        "check": ["check", path],
        "generate": ["generate", path, "Hello there", "-n", "4", "-t", "1", "--raw"],
        "chat": ["chat", path, "Hello there", "-n", "4", "-t", "1"],
        "quantize": ["quantize", "Q4_0", path, "-o", output, "-t", "1"],
        "inspect": ["inspect", path, "--tensors", "--metadata", "--template"],
        "imatrix": ["imatrix", path, "-f", DEMO / "heldout.txt", "-o", output, "--chunks", "1", "-t", "1"],
        "eval": ["eval", good, path, "-f", DEMO / "heldout.txt", "--chunks", "1", "-t", "1"],
        "bench": ["bench", path, "-p", "16", "-n", "2", "-r", "1", "-t", "1"],
        "export": ["export", "ollama", path, "unfit", "--dry-run"],
        "verify": ["verify", path, DEMO, "-t", "1"],
    }[command]


def problem(done: Outcome, output: Path) -> str | None:
    """Tell what is wrong with how a command ended; None for nothing."""
    if done.status not in _STATUSES:
        return f"status {done.status}"  # of one that hangs that of SIGKILL, with which it is ended
    if "Traceback" in done.err or "this is a bug" in done.err:
        return "a traceback"
    if "\x1b" in done.out + done.err:
        return "a control sequence of the file on the terminal"
    if len([line for line in done.err.splitlines() if line.startswith("error: ")]) > 1:
        return "several errors"
    if done.status and output.exists():
        return "an output, although it failed"
    return "processes left" if done.survivors else None


def _measure(trial: Trial) -> None:
    good, path, output = (trial.folder / name for name in ("good.gguf", "model.gguf", "output"))
    convert(DEMO, good)
    model = one_fault.Model.read(good)
    faults = one_fault.faults_of(model)
    with CommandServer() as server:
        for case in trial.cases():
            name = list(faults)[case // len(COMMANDS) % len(faults)]
            command = COMMANDS[case % len(COMMANDS)]
            broken = model.copy()
            try:
                faults[name](broken)
            except KeyError:  # there is no such key in this model
                continue
            broken.write(path)
            output.unlink(missing_ok=True)
            done = server.run(arguments(command, good, path, output), folder=trial.folder)
            trial.add({0: "fine", 6: "deaths of llama.cpp told of"}.get(done.status, "refused"))
            if found := problem(done, output):
                trial.broken(case, f"{command}, {name}: {found}: {done.err[-200:]!r}")


ROWS = [
    Row(
        "unfit-models",
        "models wrong in one way, through ten commands",
        "0 tool deaths, 0 hangs, 0 tracebacks",
        _measure,
        count=4610,
        quick=0,  # tests/cli/test_unfit_models.py
        engine=True,
    )
]
