"""Going through the baselines: each is run once for the same inputs, scored like a GGUF file, and failures are rows."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufkit.checkpoints import Checkpoint, open_checkpoint
from ggufkit.errors import InputError, UsageError
from ggufkit.evaluation.baselines import environments, vocabulary
from ggufkit.evaluation.baselines.catalogue import named
from ggufkit.evaluation.baselines.elsewhere import read_results
from ggufkit.evaluation.baselines.environments import Environment
from ggufkit.evaluation.baselines.processes import ask
from ggufkit.evaluation.baselines.questions import Questions, cut_into_tokens, ids_of_chunks
from ggufkit.evaluation.baselines.results import Against, BaselineResult
from ggufkit.evaluation.baselines.rows import not_run, row_of
from ggufkit.evaluation.baselines.runners.adapter import Baseline, Job
from ggufkit.evaluation.baselines.scoring import Scoring
from ggufkit.files import write_atomically
from ggufkit.llamacpp.cpu import available_memory, usable_cores
from ggufkit.progress import Progress

_OVERHEAD = 600_000_000  # bytes that Python and the libraries take themselves


def check_against(against: Against, base: Path, vocabulary_size: int) -> None:
    """Refuse, before anything takes long, what makes no sense; the base has so many entries in its vocabulary.

    Raises:
        UsageError: a baseline is not known, or there is no checkpoint for it to run.
        CheckpointError: the checkpoint cannot be read.
        InputError: it is that of another model; a file of results is none.
    """
    if named(against.names) and against.checkpoint is None and not base.is_dir():
        raise UsageError(
            f"baselines run a checkpoint, and {base} is a GGUF file",
            hint="--checkpoint FOLDER names the one that it was converted from",
        )
    if against.names:
        with open_checkpoint(against.checkpoint or base) as checkpoint:
            _check_same_model(checkpoint, base, vocabulary_size)
    for path in against.files:
        read_results(path)


def compare(against: Against, checkpoint: Path, questions: Questions, progress: Progress) -> list[BaselineResult]:
    """Run each baseline, and add what was measured elsewhere; what cannot run gives a row that says why.

    Raises:
        CheckpointError: the folder is none that can be read.
        LlamaCppError: the base's vocabulary cannot be read.
    """
    elsewhere = [row for path in against.files for row in read_results(path, questions.chunks)]
    baselines = named(against.names)
    if not baselines:
        return elsewhere
    folder = questions.folder / "baselines"
    folder.mkdir(exist_ok=True)
    with open_checkpoint(checkpoint) as opened:
        run = _Run(
            opened,
            questions,
            against,
            folder,
            cut_into_tokens(questions, folder, plain=against.prompt_tokens),
            progress,
        )
        return [*(run.result_of(baseline) for baseline in baselines), *elsewhere]


def _check_same_model(checkpoint: Checkpoint, base: Path, vocabulary_size: int) -> None:
    size = checkpoint.config.get("vocab_size")
    if isinstance(size, int) and size < vocabulary_size:
        raise InputError(
            f"{checkpoint.folder} has a vocabulary of {size:,} tokens, and {base} one of {vocabulary_size:,}",
            hint="give the checkpoint that the base was converted from",
        )


@dataclass(frozen=True, slots=True)
class _Run:
    checkpoint: Checkpoint
    questions: Questions
    against: Against
    folder: Path
    cut: vocabulary.Cut
    progress: Progress

    def result_of(self, baseline: Baseline) -> BaselineResult:
        """Measure, unless that was done for the same inputs already."""
        environment = environments.find(baseline.recipe)
        if environment is None:
            return not_run(baseline, f"not installed: ggufkit eval --setup-baseline {baseline.recipe.name}")
        if why := self._lacks_memory(baseline):
            return not_run(baseline, why)
        key = self._key(baseline, environment)
        output = self.folder / f"{key}.json"
        if not output.exists() and (why := self._measure(baseline, environment, key, output)):
            return not_run(baseline, why)
        try:
            answers, scoring = json.loads(output.read_text()), self._scoring(key)
            scores = scoring.scores() if scoring else None
            return row_of(baseline, answers, scores, self.questions, self.cut, self.against, self.folder)
        finally:
            shutil.rmtree(self.folder / f"{key}.work", ignore_errors=True)

    def _measure(self, baseline: Baseline, environment: Environment, key: str, output: Path) -> str | None:
        work = self.folder / f"{key}.work"
        work.mkdir(exist_ok=True)
        scoring = self._scoring(key)
        job = Job(
            checkpoint=str(self.checkpoint.folder.absolute()),
            module=baseline.module,
            variant=baseline.variant,
            imports=baseline.recipe.imports,
            distributions=baseline.recipe.distributions,
            threads=self.questions.threads or usable_cores(),
            work=str(work.absolute()),
            output=str(output.with_suffix(".answers").absolute()),
            vocabulary_size=self.questions.vocabulary_size,
            calibration=self.cut.calibration,
            bench_tokens=self.cut.plain,
            bench_generated=self.against.generated_tokens,
            repeats=self.against.repeats,
            chunks=ids_of_chunks(self.questions, self.cut.bos),
            first=scoring.first if scoring else 0,
            done=scoring.done if scoring else 0,
            logits=str((self.folder / f"{key}.").absolute()),
            prompts=[tokens for tokens in self.cut.prompts if not isinstance(tokens, str)],
            most=self.questions.max_tokens,
            stops=self.cut.stops,
            choices=self.cut.choices,
        )
        path = self.folder / f"{key}.request.json"
        seconds = None

        def on_event(stage: str, done: int, total: int) -> None:
            if stage == "reading" and scoring:
                scoring.take(Path(f"{job.logits}{done - 1}.f32"), done - 1)
            self.progress(f"{baseline.name}: {stage}", done, total, "steps")

        self.progress(f"{baseline.name}: loading", 0, 1, "steps")
        if baseline.prepares:
            prepared = work / ".prepared"
            if not prepared.exists():
                shutil.rmtree(work)
                work.mkdir()
                started = time.monotonic()
                if why := ask(environment, "prepare", job, path, on_event, self.against.patience):
                    return why
                prepared.write_text(str(time.monotonic() - started))
            seconds = float(prepared.read_text())
        if why := ask(environment, "measure", job, path, on_event, self.against.patience):
            return why
        answers = json.loads(Path(job.output).read_text())
        answers["prepare_seconds"] = seconds
        answers["disk_bytes"] = _size(work) or _weights(self.checkpoint.folder)
        write_atomically(output, json.dumps(answers).encode())
        return None

    def _scoring(self, key: str) -> Scoring | None:
        chunks = self.questions.chunks
        if chunks is None:
            return None
        threads = self.questions.threads or usable_cores()
        return Scoring(chunks, self.questions.folder, self.folder / f"{key}.scores", threads)

    def _lacks_memory(self, baseline: Baseline) -> str | None:
        weights = sum(int(np.prod(tensor.shape)) for tensor in self.checkpoint.tensors.values())
        needed, free = int(weights * baseline.load_bytes) + _OVERHEAD, available_memory()
        if needed <= free:
            return None
        return f"needs about {needed / 1e9:.1f} GB of memory to load, {free / 1e9:.1f} GB are free"

    def _key(self, baseline: Baseline, environment: Environment) -> str:
        """Name all that an answer depends on."""
        files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in _files(self.checkpoint.folder))
        chunks = self.questions.chunks
        told = [
            str(self.checkpoint.folder.absolute()),
            files,
            str(environment.python),
            baseline.recipe.requirements,
            chunks.identity if chunks else None,
            self.cut.prompts,
            self.cut.choices,
            self.cut.stops,
            self.questions.max_tokens,
            self.questions.threads,
            (self.against.prompt_tokens, self.against.generated_tokens, self.against.repeats),
        ]
        return f"{baseline.name}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def _weights(folder: Path) -> int:
    """Return the bytes of the files of weights that a checkpoint is loaded from."""
    safetensors = [path for path in _files(folder) if path.suffix == ".safetensors"]
    found = safetensors or [path for path in _files(folder) if path.suffix in {".bin", ".pt", ".pth"}]
    return sum(path.stat().st_size for path in found)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != ".prepared")
