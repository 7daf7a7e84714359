"""Tiny checkpoints, and what llama.cpp's converter makes of them; each is made once for the whole run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hub_checkpoints
import pytest
import tiny_checkpoints

from ggufkit.llamacpp.find import find_source

ORACLE = Path(__file__).parents[1] / "oracles" / "llama_cpp_convert.py"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the checkpoint of a recipe in an element type, once; tests must not change it."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(name: str, dtype: str = "bfloat16") -> Path:
        folder = root / dtype / name
        if not folder.exists():
            folder.mkdir(parents=True)
            if dtype == hub_checkpoints.AS_RELEASED:
                hub_checkpoints.make(name, folder)
            else:
                tiny_checkpoints.make(name, folder, dtype)
        return folder

    return make


@pytest.fixture(scope="session")
def upstream(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Path]:
    """Give the GGUF file that llama.cpp's converter makes of a recipe: all are made by one child process, in one go."""
    root = tmp_path_factory.mktemp("upstream")
    wanted = [*tiny_checkpoints.UPSTREAM_JOBS, *hub_checkpoints.UPSTREAM_JOBS]
    outputs = {job: root / f"{'-'.join(job)}.gguf" for job in wanted}
    jobs = [
        [
            str(checkpoint(name, dtype)),
            str(path),
            "--outtype",
            outtype,
            "--pre",
            "qwen2",
            "--source",
            str(find_source()),
            *(["--raw-config"] if dtype == hub_checkpoints.AS_RELEASED and name not in hub_checkpoints.OLD else []),
        ]
        for (name, dtype, outtype), path in outputs.items()
    ]
    (root / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run([sys.executable, ORACLE, "--jobs", root / "jobs.json"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return lambda name, dtype, outtype: outputs[name, dtype, outtype]
