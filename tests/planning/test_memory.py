"""Memory: what libllama says without allocating is what it allocates; and what follows from it."""

import re
from pathlib import Path

import pytest
import tiny_checkpoints
import tiny_gguf

from ggufkit.conversion import convert
from ggufkit.errors import LlamaCppError
from ggufkit.evaluation.child_process import ask_first, one_for_all
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import binding, memory, memory_child, native
from ggufkit.llamacpp.memory import CHILD, Answer, Caches, Matrix, Setting
from ggufkit.planning.memory import CHAT_BYTES, Fit, Memory, MemoryModel
from ggufkit.quantization.plan import PlannedTensor


def really(model: Path, setting: Setting) -> Caches:
    """Make the context, and read what llama.cpp logs about its buffers."""
    with_model = native.Model(model, gpu_layers=0)
    since = binding.log_position()
    with native.Context(
        with_model,
        size=setting.context_size,
        threads=1,
        threads_batch=1,
        batch_size=setting.batch_size,
        micro_batch_size=setting.micro_batch_size,
        flash_attention=setting.flash_attention,
        cache_type_k=setting.cache_type_k,
        cache_type_v=setting.cache_type_v,
        most_outputs=1,
    ):
        lines = binding.log_lines(since)
    with_model.close()
    buffers = [float(found[1]) for line in lines if (found := re.search(r"KV buffer size = +([\d.]+) MiB", line))]
    parsed = memory_child.parse(setting, lines)
    assert abs(sum(buffers) * 2**20 - parsed.cache) <= 0.011 * 2**20 * len(buffers)
    return parsed


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "mixtral", "deepseek-v2"])
def test_what_is_said_is_what_is_allocated(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    model = tmp_path / "model.gguf"
    convert(tiny_checkpoints.make(name, tmp_path / name, "bfloat16"), model)
    settings = [Setting(512), Setting(4096)]
    if name in {"gemma2", "qwen3"}:  # whose heads are wide enough for blocks of 32
        settings += [Setting(2048, "q8_0", "q8_0", "on"), Setting(2048, flash_attention="off")]
    answer = memory.ask(model, settings, [])
    assert list(answer.settings) == [really(model, setting) for setting in settings]
    assert answer.settings[1].cache > answer.settings[0].cache


@pytest.mark.engine
def test_a_child_that_has_other_things_to_do_says_the_same(tmp_path: Path) -> None:
    model = tiny_gguf.write_model(tmp_path / "model.gguf")
    alone = memory.ask(model, [Setting(512)], [])
    with one_for_all():
        asking = ask_first(CHILD)
        assert asking
        found = memory.ask(model, [Setting(512)], [], asking)
        with pytest.raises(LlamaCppError, match="cannot load such a model"):
            memory.ask(tmp_path / "none.gguf", [Setting(512)], [], asking)
    assert found.settings == alone.settings
    assert found.process == pytest.approx(alone.process, abs=2_000_000)  # though NumPy alone takes ten times as much
    assert ask_first(CHILD) is None


@pytest.mark.engine
def test_a_setting_that_cannot_be_says_so(tmp_path: Path) -> None:
    model = tiny_gguf.write_model(tmp_path / "model.gguf")
    setting = Setting(512, cache_type_v="q8_0", flash_attention="off")  # quantized values need flash attention
    failed = memory.ask(model, [setting], []).settings[0]
    assert failed.failure
    assert failed.cache == 0


@pytest.mark.engine
def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(LlamaCppError, match="cannot load such a model"):
        memory.ask(tmp_path / "model.gguf", [Setting(512)], [])


@pytest.mark.engine
def test_repacking_wants_rows_by_the_eight(tmp_path: Path) -> None:
    model = tiny_gguf.write_model(tmp_path / "model.gguf")
    matrices = [Matrix(int(TensorType.Q4_0), 256, rows) for rows in (256, 257)] + [
        Matrix(int(TensorType.F16), 256, 256)
    ]
    assert set(memory.ask(model, [Setting(512)], matrices).repacked) <= {matrices[0]}


MIB = 2**20


def test_the_log_is_added_up() -> None:
    lines = [
        "llama_kv_cache:        CPU KV buffer size =     0.00 MiB",
        "llama_kv_cache: size =    4.00 MiB (  4096 cells,   1 layers,  1/1 seqs), K (f16):    2.00 MiB",
        "llama_kv_cache: size =    0.50 MiB (   512 cells,   1 layers,  1/1 seqs), K (f16):    0.25 MiB",
        "llama_memory_recurrent: size =    0.25 MiB (     1 cells,   2 layers,  1 seqs  1 rs_seq), R (f32):    0.1 MiB",
        "sched_reserve:        CPU compute buffer size =    68.01 MiB",
        "llama_context:        CPU  output buffer size =     0.12 MiB",
    ]
    found = memory_child.parse(Setting(4096), lines)
    assert (found.cache, found.state) == (int(4.5 * MIB), MIB // 4)
    assert (found.compute, found.output) == (round(68.01 * MIB), round(0.12 * MIB))


def test_weights_that_are_rearranged_count_twice() -> None:
    def tensor(name: str, kind: TensorType) -> PlannedTensor:
        return PlannedTensor(name, (256, 256), TensorType.F16, kind, 131072, 36864)

    tensors = [tensor("token_embd.weight", TensorType.Q4_K), tensor("blk.0.ffn_up.weight", TensorType.Q4_K)]
    output = tensor("output.weight", TensorType.Q6_K)
    caches = Caches(Setting(512), cache=1000, state=10, compute=100, output=1)
    answer = Answer(4096, (caches,), (Matrix(int(TensorType.Q4_K), 256, 256),), process=5)
    takes = MemoryModel(answer).of(200_000, [*tensors, output])
    assert takes == Memory(200_000, 36864, 1000, 10, 101, 5 + CHAT_BYTES)
    assert takes.needed == takes.peak - 36864
    # Without an output layer the embeddings are multiplied with, too.
    tied = MemoryModel(answer).of(200_000, tensors)
    assert tied is not None
    assert tied.repacked == 2 * 36864


def test_fits() -> None:
    takes = Memory(file=700, repacked=200, cache=50, state=0, compute=25, process=25)
    assert [takes.fits(available) for available in (1112, 1000, 880)] == [Fit.YES, Fit.TIGHT, Fit.NO]
