"""Which attention the engine takes where nobody says, and that it takes it."""

import random
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf

from ggufkit.gguf_file.reader import read_header
from ggufkit.inference.attention import Attention, attention
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention
from ggufkit.llamacpp import native

FUSED, PLAIN = Attention("auto", 512), Attention("off", 128)


@pytest.mark.parametrize(
    ("options", "context", "on_cpu", "wanted"),
    [
        (EngineOptions(), 1024, True, FUSED),
        (EngineOptions(), 1025, True, PLAIN),
        (EngineOptions(), 32768, True, PLAIN),
        (EngineOptions(), 32769, True, Attention("off", 64)),  # of four heads
        (EngineOptions(), 8192, False, FUSED),
        (EngineOptions(flash_attention=FlashAttention.ON), 8192, True, Attention("on", 512)),
        (EngineOptions(flash_attention=FlashAttention.OFF), 8192, True, Attention("off", 512)),
        (EngineOptions(micro_batch_size=256), 8192, True, Attention("off", 256)),
        (EngineOptions(cache_type_k=CacheType.Q8_0), 8192, True, PLAIN),
        (EngineOptions(cache_type_v=CacheType.Q8_0), 8192, True, FUSED),  # llama.cpp needs it for such values
    ],
)
def test_a_long_context_on_a_cpu_is_not_fused(
    options: EngineOptions, context: int, on_cpu: bool, wanted: Attention, tmp_path: Path
) -> None:
    header = read_header(tiny_gguf.write_model(tmp_path / "model.gguf"))
    assert attention(options, header, context, on_cpu=on_cpu) == wanted


@pytest.mark.engine
def test_the_engine_takes_it_and_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf.write_model(tmp_path / "model.gguf")
    made: list[tuple[str, int]] = []
    context = native.Context

    def recorded(*arguments: object, **options: object) -> native.Context:
        made.append((str(options["flash_attention"]), int(str(options["micro_batch_size"]))))
        return context(*arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(native, "Context", recorded)
    source = random.Random(1)
    logits = []
    for fused in (FlashAttention.AUTO, FlashAttention.ON):
        options = EngineOptions(context_size=2048, threads=1, flash_attention=fused, cache_type_k=CacheType.F32)
        with Engine.open(path, options) as engine:
            logits.append(engine.logits([source.randrange(engine.vocabulary_size) for _ in range(700)]))
        source.seed(1)
    assert made == [("off", 128), ("off", 128), ("on", 512), ("on", 512)]  # of the engine, and for the logits
    spread = np.abs(logits[1]).max()
    assert np.abs(logits[0] - logits[1]).max() < spread / 100
