"""What llama-server is told: attention as chat computes it, and a whole text at once where vectors are made."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model

from ggufkit.gguf_file.reader import read_header
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention
from ggufkit.inference.placement import Placement
from ggufkit.inference.serving.options import ServeOptions
from ggufkit.inference.serving.settings import for_embeddings, llama_server_options, placed
from ggufkit.llamacpp.server import LlamaServerOptions


def told(tmp_path: Path, engine: EngineOptions, *, on_cpu: bool = True, **metadata: int) -> LlamaServerOptions:
    path = tiny_model.write(
        tmp_path / "model.gguf",
        training_context=4096,
        metadata={f"llama.{name}": value for name, value in metadata.items()},
    )
    header = read_header(path)
    planned = llama_server_options(path, header, ServeOptions(engine=engine, slots=3), tmp_path)
    return placed(planned, header, Placement(replace(engine, gpu_layers=0), on_cpu=on_cpu))


@pytest.mark.parametrize(
    ("engine", "on_cpu", "wanted"),
    [
        (EngineOptions(), True, ("off", 128)),
        (EngineOptions(context_size=1024), True, ("auto", 512)),  # of each slot, not of the three together
        (EngineOptions(), False, ("auto", 512)),
        (EngineOptions(flash_attention=FlashAttention.ON), True, ("on", 512)),
        (EngineOptions(flash_attention=FlashAttention.OFF, micro_batch_size=64), True, ("off", 64)),
        (EngineOptions(cache_type_k=CacheType.Q8_0, cache_type_v=CacheType.Q8_0), True, ("auto", 512)),
    ],
)
def test_attention_is_computed_as_chat_has_it(
    tmp_path: Path, engine: EngineOptions, on_cpu: bool, wanted: tuple[str, int]
) -> None:
    options = told(tmp_path, engine, on_cpu=on_cpu)
    assert (options.flash_attention, options.micro_batch_size) == wanted


def test_vectors_are_made_of_a_whole_text_at_once(tmp_path: Path) -> None:
    engine = EngineOptions()
    second = for_embeddings(told(tmp_path, engine), engine)
    assert (second.flash_attention, second.micro_batch_size, second.slots) == ("auto", 2048, 1)
    own = told(tmp_path, engine, pooling_type=1)
    assert (own.embeddings, own.flash_attention, own.micro_batch_size) == (True, "auto", 4096)
