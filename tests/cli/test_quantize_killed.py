"""Runs of several types that are killed: nothing broken under a final name, and the next run finishes the work."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.llamacpp.find import find

pytestmark = [pytest.mark.engine, pytest.mark.fault]

KINDS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q2_K")
DEMO = Path(__file__).parents[2] / "ggufkit" / "demo_model"
COMMAND = [sys.executable, "-c", "from ggufkit.cli import main; main()", "quantize"]


def quantize(source: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [*COMMAND, ",".join(KINDS), source, "-o", f"{folder}/", "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> list[dict]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)["results"]


def visible(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes llama-quantize about a second in all four types."""
    return tiny_gguf.write_model(tmp_path_factory.mktemp("model") / "model-F16.gguf", hidden=512, feed_forward=1536)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What all files hold in the end, and the seconds of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    finished(quantize(source, folder))
    seconds = time.monotonic() - started
    files = visible(folder)
    for kind in KINDS:
        by_hand = tiny_gguf.by_hand(source, kind, folder / f"hand-{kind}.gguf")
        assert files[f"model-{kind}.gguf"] == by_hand
    return files, seconds


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_next_run_completes(
    kills: int, source: Path, whole: tuple[dict[str, bytes], float], tmp_path: Path, figure: Callable[[str, str], None]
):
    files, seconds = whole
    chance = random.Random(kills)
    kept = 0
    for number in range(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = quantize(source, folder)
        time.sleep(chance.uniform(seconds / 4, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = visible(folder)
        assert all(files[name] == content for name, content in there.items())
        results = finished(quantize(source, folder))
        # A file may have got its name in the moment before its note was written: then it was made again.
        assert len(there) - 1 <= sum(result["was_there"] for result in results) <= len(there)
        kept += sum(result["was_there"] for result in results)
        assert visible(folder) == files
        assert not [path for path in folder.iterdir() if "part" in path.name or "lock" in path.name]
    figure("killed runs of four types", f"{kills}, {kept} of {kills * len(KINDS)} files kept by the next run")


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_checkpoint_that_is_quantized_in_one_pass_may_be_interrupted_too(kills: int, tmp_path: Path):
    whole = tmp_path / "whole"
    whole.mkdir()
    started = time.monotonic()
    finished(quantize(DEMO, whole))
    seconds = time.monotonic() - started
    chance = random.Random(kills)
    for number in range(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = quantize(DEMO, folder)
        time.sleep(chance.uniform(seconds / 4, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert all(visible(whole)[name] == content for name, content in visible(folder).items())
        finished(quantize(DEMO, folder))
        assert visible(folder) == visible(whole)
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert all(name.endswith(".ggufkit-made") for name in left), left


def test_what_is_kept_must_be_the_very_same(source: Path, whole: tuple[dict[str, bytes], float], tmp_path: Path):
    files, _ = whole
    model = tmp_path / "model-F16.gguf"
    model.write_bytes(source.read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    finished(quantize(model, out))

    def remade(*options: str) -> set[str]:
        return {r["type"] for r in finished(quantize(model, out, *options)) if not r["was_there"]}

    assert remade() == set()
    assert remade("--again") == set(KINDS)
    assert remade() == set()
    os.utime(model)  # touched, the same bytes
    assert remade() == set()
    (out / "model-Q4_K_M.gguf").unlink()
    assert remade() == {"Q4_K_M"}
    damaged = bytearray(files["model-Q2_K.gguf"])
    damaged[-1000] ^= 1
    (out / "model-Q2_K.gguf").write_bytes(damaged)
    assert remade() == {"Q2_K"}
    (out / ".model-Q8_0.gguf.ggufkit-made").write_text("{}")
    assert remade() == {"Q8_0"}
    assert visible(out) == files
    assert remade("--pure") == {"Q5_K_M", "Q4_K_M", "Q2_K"}  # Q8_0 is pure by itself
    changed = bytearray(model.read_bytes())
    changed[-1000] ^= 1
    model.write_bytes(changed)
    assert remade("--pure") == set(KINDS)


def test_leftovers_of_dead_runs_are_removed_and_those_of_living_ones_are_not(source: Path, tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    leftovers = [tmp_path / f".model-Q6_K.gguf.{dead.pid}.ggufkit-part", tmp_path / ".model-Q6_K.gguf.ggufkit-lock"]
    for path in leftovers:
        path.write_bytes(b"x")
    living = tmp_path / f".model-Q6_K.gguf.{os.getpid()}.ggufkit-part"
    living.write_bytes(b"x")
    finished(quantize(source, tmp_path))
    assert not any(path.exists() for path in leftovers)
    assert living.exists()


def test_a_killed_run_on_a_split_model_leaves_all_parts_or_none(tmp_path: Path):
    model = tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    split = [find().tool("llama-gguf-split"), "--split-max-size", "1M", model, tmp_path / "part-F16"]
    subprocess.run(split, check=True, capture_output=True)
    parts = sorted(tmp_path.glob("part-F16-*.gguf"))
    out = tmp_path / "out"
    out.mkdir()
    for seconds in (0.3, 0.5, 0.6, 0.7, 0.8, 1.0):
        process = quantize(parts[0], out, "--keep-split")
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for first in out.glob("*-00001-of-*.gguf"):
            count = int(first.stem.rpartition("-")[2])
            assert len(list(out.glob(first.name.replace("-00001-of", "-*-of")))) == count == len(parts)
    results = finished(quantize(parts[0], out, "--keep-split"))
    assert {path for result in results for path in result["outputs"]} == {str(path) for path in out.glob("*.gguf")}
    assert not [path for path in out.iterdir() if "part" in path.name.rpartition(".gguf")[2]]
