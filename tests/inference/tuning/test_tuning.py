"""Tuning finds what is faster on machines whose truth is known, and keeps to the default on noise alone."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny_model

from ggufkit.errors import LlamaCppError, UsageError
from ggufkit.gguf_file.reader import read_header
from ggufkit.inference.attention import attention
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoadMode
from ggufkit.inference.tuning import TuneOptions, Tuner
from ggufkit.inference.tuning.bench_measure import Workload
from ggufkit.inference.tuning.result import TuneResult
from ggufkit.inference.tuning.settings import Settings
from ggufkit.inference.tuning.trials import Comparison, compare, halve

DEFAULT = Settings(threads=8, threads_batch=8)
UNFUSED = Settings(threads=8, threads_batch=8, micro_batch_size=128, flash_attention=FlashAttention.OFF)


class Machine:
    """Runs at the speed that a formula says, with noise, and a clock that measurements move on."""

    def __init__(self, speed: Callable[[Workload, Settings], float], *, noise: float = 0.03, seed: int = 1) -> None:
        self.speed = speed
        self.noise = noise
        self.random = random.Random(seed)
        self.now = 0.0
        self.measured: list[Settings] = []

    def __call__(self, workload: Workload, settings: Sequence[Settings]) -> list[float]:
        speeds = []
        for each in settings:
            self.measured.append(each)
            speed = self.speed(workload, each) * self.random.lognormvariate(0, self.noise)
            self.now += 0.3 + (workload.prompt + workload.generate) / speed
            speeds.append(speed)
        return speeds

    def tune(self, default: Settings = DEFAULT, most_fitting: int = 2048, **options: object) -> TuneResult:
        return Tuner(
            Path("m.gguf"),
            self,
            TuneOptions(**options),
            most_threads=16,
            default=default,
            fits_unfused=lambda size: size <= most_fitting,
            clock=lambda: self.now,
        ).run()


def flat(workload: Workload, settings: Settings) -> float:
    return 200.0 if workload.prompt else 20.0


def with_depth(workload: Workload, settings: Settings) -> float:
    """Reads prompts as fast either way; behind other tokens the fused kernel generates ever more slowly."""
    if workload.prompt:
        return 800.0
    return 100.0 / (1 + workload.depth / (2000 if settings.flash_attention is FlashAttention.OFF else 500))


def few_threads_are_best(workload: Workload, settings: Settings) -> float:
    """Memory feeds four threads; prompts want all sixteen, and half the micro batch."""
    if workload.prompt:
        return 80.0 * settings.threads_batch**0.8 * (1.25 if settings.micro_batch_size == 256 else 1)
    return 25.0 - abs(settings.threads - 4) * 1.5


@pytest.mark.parametrize("seed", range(20))
def test_on_noise_alone_the_default_stays(seed: int) -> None:
    assert Machine(flat, noise=0.05, seed=seed).tune().settings == {}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_faster_is_found_in_time(seed: int) -> None:
    machine = Machine(few_threads_are_best, seed=seed)
    result = machine.tune(seconds=120)
    assert result.settings == {"threads": 4, "threads_batch": 16, "micro_batch_size": 256}
    assert result.generating.gain > 1.15
    assert result.reading.gain > 1.15
    assert machine.now < 150
    assert result.profile().settings == result.settings


@pytest.mark.parametrize("seed", range(10))
def test_the_choice_is_never_slower_on_a_noisy_machine(seed: int) -> None:
    truth = random.Random(seed)
    bonus = {count: truth.uniform(0.9, 1.1) for count in range(17)}

    def speed(workload: Workload, settings: Settings) -> float:
        return flat(workload, settings) * bonus[settings.threads_batch if workload.prompt else settings.threads]

    chosen = Machine(speed, noise=0.08, seed=seed).tune().chosen
    assert bonus[chosen.threads] >= bonus[8] * 0.995
    assert bonus[chosen.threads_batch] >= bonus[8] * 0.995


def test_a_gain_of_one_that_is_a_loss_of_the_other_is_not_taken() -> None:
    def speed(workload: Workload, settings: Settings) -> float:
        off = settings.flash_attention is FlashAttention.OFF
        return flat(workload, settings) * ((0.5 if workload.prompt else 1.3) if off else 1)

    assert Machine(speed).tune().settings == {}


def test_a_faster_way_of_loading_is_taken_where_there_is_room() -> None:
    def speed(workload: Workload, settings: Settings) -> float:
        return flat(workload, settings) * (1.3 if settings.load_mode is LoadMode.NONE else 1)

    assert Machine(speed).tune(seconds=200).settings == {"load_mode": LoadMode.NONE}
    tight = Machine(speed)
    tuner = Tuner(
        Path("m.gguf"), tight, TuneOptions(), can_copy=False, most_threads=8, default=DEFAULT, clock=lambda: tight.now
    )
    assert tuner.run().settings == {}
    assert all(settings.load_mode is LoadMode.AUTO for settings in tight.measured)


def test_types_of_keys_and_values_are_tried_only_when_asked_for() -> None:
    def speed(workload: Workload, settings: Settings) -> float:
        return flat(workload, settings) * (1.5 if settings.cache_type_v is CacheType.Q8_0 else 1)

    machine = Machine(speed)
    assert machine.tune().settings == {}
    assert all(settings.cache_type_k is CacheType.F16 for settings in machine.measured)
    settings = Machine(speed).tune(seconds=200, cache_types=(CacheType.Q8_0,)).settings
    assert settings == {"cache_type_k": CacheType.Q8_0, "cache_type_v": CacheType.Q8_0}


def test_what_llama_cpp_refuses_is_no_choice_and_a_broken_default_is_an_error() -> None:
    def refusing(workload: Workload, settings: Settings) -> float:
        if settings.flash_attention is FlashAttention.OFF:
            raise LlamaCppError("V cache quantization requires flash_attn")
        return flat(workload, settings)

    assert Machine(refusing).tune().settings == {}

    def broken(workload: Workload, settings: Settings) -> float:
        raise LlamaCppError("no memory")

    with pytest.raises(LlamaCppError, match="no memory"):
        Machine(broken).tune()


@pytest.mark.parametrize("seed", range(5))
def test_the_default_of_chat_is_what_a_long_context_is_measured_beside(seed: int) -> None:
    machine = Machine(with_depth, seed=seed)
    result = machine.tune(UNFUSED, most_fitting=128)
    assert result.settings == {}
    assert result.default == UNFUSED
    [stage] = [stage for stage in result.stages if stage.name == "flash attention"]
    assert {trial.settings.flash_attention for trial in stage.trials} == {FlashAttention.OFF, FlashAttention.ON}
    assert result.workloads[stage.workload].depth == 1024
    unfused = {each.micro_batch_size for each in machine.measured if each.flash_attention is FlashAttention.OFF}
    assert max(unfused) == 128  # the scores of more would not fit


@pytest.mark.parametrize("seed", range(5))
def test_what_beats_that_default_says_how_attention_is_computed(seed: int, tmp_path: Path) -> None:
    header = read_header(tiny_model.write(tmp_path / "model.gguf"))

    def fused_is_best(workload: Workload, settings: Settings) -> float:
        return flat(workload, settings) * (1.4 if settings.flash_attention is FlashAttention.ON else 1)

    def small_is_best(workload: Workload, settings: Settings) -> float:
        return flat(workload, settings) * (1.4 if workload.prompt and settings.micro_batch_size == 64 else 1)

    fused = Machine(fused_is_best, seed=seed).tune(UNFUSED, seconds=300)
    assert fused.settings.items() >= {"flash_attention": FlashAttention.ON, "micro_batch_size": 512}.items()
    small = Machine(small_is_best, seed=seed).tune(UNFUSED, seconds=300)
    assert small.settings.items() >= {"flash_attention": FlashAttention.OFF, "micro_batch_size": 64}.items()
    for result in (fused, small):  # the engine runs what was measured
        chosen = attention(EngineOptions(**result.settings), header, 8192, on_cpu=True)
        assert (chosen.flash, chosen.micro_batch_size) == (
            result.chosen.flash_attention,
            result.chosen.micro_batch_size,
        )


def test_quantized_values_are_measured_with_the_attention_that_they_need() -> None:
    def speed(workload: Workload, settings: Settings) -> float:
        if settings.flash_attention is FlashAttention.OFF and settings.cache_type_v is CacheType.Q8_0:
            raise LlamaCppError("V cache quantization requires flash_attn")
        return flat(workload, settings) * (1.5 if settings.cache_type_v is CacheType.Q8_0 else 1)

    settings = Machine(speed, noise=0.0).tune(UNFUSED, seconds=300, cache_types=(CacheType.Q8_0,)).settings
    assert settings == {
        "cache_type_k": CacheType.Q8_0,
        "cache_type_v": CacheType.Q8_0,
        "flash_attention": FlashAttention.AUTO,
        "micro_batch_size": 512,
    }


@pytest.mark.engine
def test_the_default_is_what_the_engine_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggufkit.inference import tuning
    from ggufkit.inference.engine import Engine
    from ggufkit.llamacpp import native

    measured: list[Settings] = []

    def measure(self: Workload, model: Path, settings: Sequence[Settings], gpu_layers: int) -> list[float]:
        measured.extend(settings)
        return [100.0] * len(settings)

    made: list[dict[str, object]] = []
    context = native.Context

    def recorded(*arguments: object, **options: object) -> native.Context:
        made.append(options)
        return context(*arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Workload, "measure", measure)
    monkeypatch.setattr(native, "Context", recorded)
    for trained in (4096, 512):
        path = tiny_model.write(tmp_path / f"{trained}.gguf", training_context=trained)
        measured.clear()
        result = tuning.tune(path, TuneOptions(seconds=1))
        Engine.open(path).close()
        default = measured[0]
        assert result.default == default
        for name in ("threads", "threads_batch", "micro_batch_size", "flash_attention", "cache_type_v"):
            assert getattr(default, name) == made[-1][name], name


def test_when_time_runs_out_stages_are_skipped_and_named() -> None:
    result = Machine(few_threads_are_best).tune(seconds=8)
    assert result.skipped
    with pytest.raises(UsageError, match="positive"):
        TuneOptions(seconds=0)


def test_halving_measures_the_promising_ones_most_and_keeps_the_default() -> None:
    def measure(settings: Sequence[Settings]) -> list[float]:
        return [float(each.threads) for each in settings]

    candidates = [Settings(count, 8) for count in (1, 2, 3, 4, 5, 6, 7, 8)]
    trials = halve(candidates, measure, has_time=lambda: True)
    assert trials[0].settings.threads == 8
    assert {trial.settings.threads: len(trial.speeds) for trial in trials} == {
        8: 3, 7: 3, 6: 3, 1: 3, 5: 2, 4: 1, 3: 1, 2: 1,
    }  # fmt: skip


def test_a_comparison_takes_turns_and_stops_when_it_is_sure() -> None:
    order: list[int] = []

    def measure(settings: Sequence[Settings]) -> list[float]:
        order.extend(each.threads for each in settings)
        return [100.0 + each.threads * 10 + len(order) % 3 for each in settings]

    [comparison] = compare(Settings(1, 1), Settings(2, 2), [measure], has_time=lambda: True)
    assert order == [1, 2, 2, 1, 1, 2, 2, 1, 1, 2]
    assert comparison.is_faster
    assert not Comparison([1.0] * 5, [1.5, 1.5, 0.9, 0.9, 1.4]).is_faster
    assert not Comparison().is_faster


@pytest.mark.engine
@pytest.mark.slow
def test_llama_bench_measures_what_is_asked(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf", training_context=512)
    settings = Settings(1, 1, micro_batch_size=64, flash_attention=FlashAttention.OFF)
    for workload in (Workload(prompt=64), Workload(generate=8, depth=16)):
        [speed] = workload.measure(path, [settings], 0)
        assert speed > 0
