"""ONNX Runtime, OpenVINO and Intel Neural Compressor: really run where they have been set up, which takes gigabytes."""

import os
from pathlib import Path

import pytest

from ggufkit.evaluation.answers.tasks import read_task
from ggufkit.evaluation.baselines import environments
from ggufkit.evaluation.baselines.catalogue import baselines, named
from ggufkit.evaluation.baselines.results import Against, Origin
from ggufkit.evaluation.baselines.runners import onnxruntime_models
from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
from ggufkit.evaluation.likelihood.passes import Running

DEMO = Path(__file__).parents[3] / "ggufkit" / "demo_model"

# By how much each may raise the perplexity of the demo model: far less than an export, a position or a sign gone wrong.
MOST_LOST = {
    "onnxruntime-fp32": 0.002,
    "onnxruntime-int8": 0.08,
    "openvino-fp16": 0.002,
    "openvino-int8": 0.02,
    "openvino-int4": 0.08,
    "inc-rtn4": 0.08,
    "inc-gptq4": 0.05,
    "inc-awq4": 0.05,
}


def test_each_of_them_has_a_limit():
    systems = ("onnxruntime", "openvino", "inc")
    assert set(MOST_LOST) == {it.name for it in named(systems)}
    assert all(baselines()[name].prepares for name in MOST_LOST)  # quantizing must not count as the model's memory


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu sse4_2 avx2 avx512_vnni amx_int8", True),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu sse4_2 avx avx2 fma", False),
        ("Features\t: fp asimd asimddp", False),
    ],
)
def test_signed_weights_are_for_processors_that_do_not_saturate(flags: str, expected: bool, tmp_path: Path):
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"processor\t: 0\n{flags}\n")
    assert onnxruntime_models._has_vnni(cpu) is expected


def test_an_unknown_processor_gets_the_weights_that_work_everywhere(tmp_path: Path):
    assert not onnxruntime_models._has_vnni(tmp_path / "absent")


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("name", MOST_LOST)
def test_it_runs_and_loses_what_its_bits_cost(name: str, demo_f32: Path, tmp_path: Path):
    baseline = baselines()[name]
    if not os.environ.get("GGUFKIT_TEST_BASELINES"):
        pytest.skip("takes a minute or two each: GGUFKIT_TEST_BASELINES=1 runs what is set up")
    if environments.find(baseline.recipe) is None:
        pytest.skip(f"not installed: ggufkit eval --setup-baseline {baseline.recipe.name}")
    task = tmp_path / "task.jsonl"
    task.write_text("".join((DEMO / "questions.jsonl").read_text().splitlines(keepends=True)[::100]))
    options = EvaluationOptions(chunks=4, running=Running(threads=2), folder=tmp_path / "work", max_tokens=48)
    against = Against([name], checkpoint=DEMO, prompt_tokens=64, generated_tokens=8, repeats=1)
    found = evaluate(demo_f32, [], [DEMO / "heldout.txt"], options, tasks=[read_task(task)], against=against)
    row = found.baselines[0]
    assert row.origin is Origin.HERE, row.why
    assert row.divergence is not None
    ratio = row.divergence.perplexity_ratio.value
    assert 0.98 < ratio < 1 + MOST_LOST[name]
    if name.endswith(("fp32", "fp16")):
        assert row.divergence.same_top.value > 0.99
        assert row.divergence.mean_kld.value < 1e-4
    accuracy = row.tasks[0].accuracy
    assert accuracy.right >= 0.8 * accuracy.questions  # replies with keys and values kept, one token at a time
    feet = row.footprint
    assert feet.weight_bytes is not None
    assert feet.disk_bytes is not None
    assert feet.weight_bytes <= feet.disk_bytes * 1.2
    assert feet.generation is not None
