"""Running the child of a baseline under its own Python: progress from it, and why it did not work out."""

import json
from collections.abc import Callable
from pathlib import Path

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.evaluation.baselines import runners
from ggufkit.evaluation.baselines.environments import Environment
from ggufkit.evaluation.baselines.runners.adapter import Job
from ggufkit.evaluation.baselines.runners.child import MARK
from ggufkit.llamacpp.run import SilentError, run

# Load the adapters as a package of their own: nothing else of ours must be visible in another environment.
_BOOT = """\
import importlib.util, sys
folder = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location(
    "baseline_runners", folder + "/__init__.py", submodule_search_locations=[folder])
package = importlib.util.module_from_spec(spec)
sys.modules["baseline_runners"] = package
spec.loader.exec_module(package)
from baseline_runners.child import main
main()
"""
_FOLDER = Path(runners.__file__).parent
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_SURROUNDINGS = {
    "CUDA_VISIBLE_DEVICES": "",  # on the CPU, like the other rows of the table
    "HIP_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def ask(
    environment: Environment,
    task: str,
    job: Job,
    path: Path,
    on_event: Callable[[str, int, int], None],
    patience: float | None = None,
) -> str | None:
    """Run `prepare` or `measure`; return why it did not work, or None.

    `path` is where the job is written for the child; `on_event` takes a stage, and how much of how much is done. It
    is ended when it has written nothing for `patience` seconds; None: never.
    """
    job.write(path)
    why = Path(f"{job.output}.why")
    why.unlink(missing_ok=True)

    doing = "it was loading"

    def on_line(line: str) -> None:
        nonlocal doing
        if line.startswith(MARK):
            event = json.loads(line.removeprefix(MARK))
            doing = f"{event['stage']} ({event['done']} of {event['total']})"
            on_event(event["stage"], event["done"], event["total"])

    # Ours may see packages by PYTHONPATH; another one must not.
    alone = ["-P"] if environment.is_ours else ["-I"]
    command: list[str | Path] = [
        environment.python,
        *alone,
        "-c",
        _BOOT,
        _FOLDER,
        task,
        path,
    ]
    surroundings = {**_SURROUNDINGS, **dict.fromkeys(_THREADS, str(job.threads))}
    try:
        run(command, environment=surroundings, on_line=on_line, patience=patience)
    except MissingDependencyError as error:
        return f"its Python cannot be started: {error}"
    except SilentError:
        return f"it hung: no sign of life for {(patience or 0) / 60:g} minutes (--baseline-patience) while {doing}"
    except LlamaCppError as error:
        return why.read_text() if why.exists() else _end(str(error))
    return None


def _end(text: str) -> str:
    """Say how it died: the signal or status, and the last thing that it said."""
    text = text.partition(" (command: ")[0]
    how, _, said = text.partition(": ")
    if "SIGKILL" in how:
        return "it was killed, as the system does when memory runs out"
    last = said.split(" | ")[-1].strip()
    return f"it {how.partition(' ')[2]}: {last[:200]}"
