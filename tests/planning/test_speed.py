"""Speed: an estimate from measured bytes per second, which are measured once."""

from pathlib import Path

import pytest

from ggufkit.errors import LlamaCppError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import cache_folder
from ggufkit.llamacpp.speed import Speeds, measure
from ggufkit.planning import speed
from ggufkit.quantization.plan import PlannedTensor

Q4, Q6 = TensorType.Q4_K, TensorType.Q6_K
LLAMA = {"general.architecture": "llama"}


def tensor(name: str, kind: TensorType, size: int) -> PlannedTensor:
    return PlannedTensor(name, (256, 256), TensorType.F16, kind, 2 * size, size)


def test_the_slower_of_memory_and_kernel_counts() -> None:
    speeds = Speeds(memory=1000.0, kernels={int(Q4): 500.0, int(Q6): 5000.0})
    tensors = [tensor("blk.0.ffn_up.weight", Q4, 500), tensor("output.weight", Q6, 1000)]
    assert speed.tokens_per_second(tensors, speeds, LLAMA) == pytest.approx(1 / (500 / 500 + 1000 / 1000))


def test_embeddings_are_looked_up_unless_they_are_the_output_too() -> None:
    speeds = Speeds(memory=1000.0, kernels={int(Q4): 1000.0})
    tensors = [tensor("token_embd.weight", Q4, 1000), tensor("blk.0.ffn_up.weight", Q4, 1000)]
    assert speed.tokens_per_second(tensors, speeds, LLAMA) == pytest.approx(0.5)
    assert speed.tokens_per_second([*tensors, tensor("output.weight", Q4, 0)], speeds, LLAMA) == pytest.approx(1.0)


def test_only_the_experts_that_are_asked_count() -> None:
    speeds = Speeds(memory=1000.0, kernels={int(Q4): 1000.0})
    metadata = {"general.architecture": "llama", "llama.expert_count": 8, "llama.expert_used_count": 2}
    tensors = [tensor("blk.0.ffn_up_exps.weight", Q4, 4000), tensor("output.weight", Q4, 0)]
    assert speed.tokens_per_second(tensors, speeds, metadata) == pytest.approx(1.0)


def test_a_type_that_was_not_measured_has_no_estimate() -> None:
    assert speed.tokens_per_second([tensor("output.weight", Q4, 1)], Speeds(1.0, {}), LLAMA) is None


@pytest.mark.engine
def test_measured_once_and_again_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Speeds(10.0, {1: 3.0}), Speeds(8.0, {1: 5.0})])
    monkeypatch.setattr(speed, "measure", lambda *_: next(answers))
    assert speed.machine_speeds(2) == speed.machine_speeds(2) == Speeds(10.0, {1: 3.0})
    # What disturbs a measurement makes it slower: the better figures are kept.
    assert speed.machine_speeds(2, again=True) == speed.machine_speeds(2) == Speeds(10.0, {1: 5.0})


@pytest.mark.engine
@pytest.mark.parametrize("content", ["", "{", '{"machines": []}', '{"machines": {"x": {"memory": "?"}}}'])
def test_a_broken_cache_is_replaced(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "speed.json").write_text(content)
    monkeypatch.setattr(speed, "measure", lambda *_: Speeds(10.0, {}))
    assert speed.machine_speeds(2) == Speeds(10.0, {})


@pytest.mark.engine
def test_without_a_measurement_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Speeds:
        raise LlamaCppError("crashed")

    monkeypatch.setattr(speed, "measure", fail)
    assert speed.machine_speeds(2) is None


@pytest.mark.engine
@pytest.mark.slow
def test_this_machine(tmp_path: Path) -> None:
    speeds = measure(2, [int(kind) for kind in (TensorType.F16, TensorType.Q4_0, TensorType.Q8_0, TensorType.IQ2_XXS)])
    assert 1e8 < speeds.memory < 1e13
    assert all(1e8 < rate < 1e13 for rate in speeds.kernels.values())
    # Kernels of few bits do the same arithmetic for fewer bytes.
    assert speeds.kernels[int(TensorType.IQ2_XXS)] < speeds.kernels[int(TensorType.F16)]
