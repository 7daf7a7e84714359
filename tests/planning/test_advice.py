"""Which type is recommended, for models and machines of all sizes, and the command for it."""

import shlex
from pathlib import Path

import hollow_checkpoint
import pytest
import tiny_gguf

from ggufkit.llamacpp.speed import Speeds
from ggufkit.planning import speed
from ggufkit.planning.plan import ModelPlan, PlanOptions, plan
from ggufkit.quantization.types import quantization_type

pytestmark = pytest.mark.engine

GB = 10**9


@pytest.fixture(scope="module")
def eight_billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 8 B weights, as far as headers go."""
    folder = tmp_path_factory.mktemp("8b") / "llama 8b"
    return hollow_checkpoint.write(folder, hidden=4096, feed_forward=14336, layers=36)


def planned(source: Path, ram: float, **more: object) -> ModelPlan:
    return plan(source, PlanOptions(ram=int(ram), measure_speed=False, **more))


def recommended(source: Path, ram: float, **more: object) -> str:
    advice = planned(source, ram, **more).advice
    assert advice is not None
    return advice.choice.row.name


def test_less_memory_means_fewer_bits(eight_billion: Path) -> None:
    assert recommended(eight_billion, 64 * GB) == "Q4_K_M"
    sizes = []
    for ram in (64 * GB, 8 * GB, 6 * GB, 5 * GB, 4 * GB):
        advice = planned(eight_billion, ram).advice
        assert advice is not None
        row = advice.choice.row
        assert row.memory is not None
        assert row.memory.needed <= 0.9 * ram
        sizes.append(row.bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] * 0.75
    hopeless = planned(eight_billion, 1 * GB).advice
    assert hopeless is not None
    assert "none fits" in hopeless.choice.reason
    assert hopeless.others == ()


def test_a_gpu_counts_as_well(eight_billion: Path) -> None:
    assert recommended(eight_billion, 4.5 * GB, vram=24 * GB) == "Q4_K_M"


def test_with_room_and_speed_more_bits(eight_billion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Speeds(100e9, dict.fromkeys(range(50), 100e9))
    monkeypatch.setattr(speed, "machine_speeds", lambda *_, **__: fast)
    advice = plan(eight_billion, PlanOptions(ram=64 * GB)).advice
    assert advice is not None
    assert advice.choice.row.name == "Q5_K_M"


def test_small_models_keep_more_bits(hollow_llama: Path, tmp_path: Path) -> None:
    assert recommended(hollow_llama, 64 * GB) == "Q5_K_M"
    assert recommended(tiny_gguf.write_model(tmp_path / "tiny.gguf"), 64 * GB) == "Q8_0"


def test_a_model_trained_for_a_type_gets_it(tmp_path: Path) -> None:
    folder = hollow_checkpoint.write(tmp_path / "llama-1b-qat")
    assert recommended(folder, 64 * GB) == "Q4_0"


def test_the_command_does_it(eight_billion: Path) -> None:
    advice = planned(eight_billion, 64 * GB).advice
    assert advice is not None
    assert shlex.split(advice.command) == ["ggufkit", "quantize", "Q4_K_M", str(eight_billion)]
    with_matrix = planned(eight_billion, 64 * GB, types=[quantization_type("IQ3_XXS")]).advice
    assert with_matrix is not None
    assert "--imatrix" in with_matrix.command


def test_others_for_other_ends(eight_billion: Path) -> None:
    advice = planned(eight_billion, 64 * GB).advice
    assert advice is not None
    assert {choice.purpose: choice.row.name for choice in advice.others} == {
        "near-lossless": "Q8_0",
        "edge": "Q4_0",
        "smallest usable": "Q3_K_M",
    }


def test_what_is_quantized_already_is_planned_as_it_is(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    tiny_gguf.by_hand(source, "Q4_0", tmp_path / "model-Q4_0.gguf")
    found = planned(tmp_path / "model-Q4_0.gguf", 64 * GB)
    assert [row.name for row in found.rows] == ["as it is"]
    assert found.rows[0].bytes == (tmp_path / "model-Q4_0.gguf").stat().st_size
    assert found.rows[0].memory is not None
    assert "--allow-requantize" in found.refused["Q8_0"]
