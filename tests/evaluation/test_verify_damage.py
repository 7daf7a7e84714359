"""What `verify` must notice: each damage is made in a copy, and every check that can see it must fail by itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recipes
from damaged_gguf import with_byte, with_metadata, with_tensor

from ggufkit.evaluation.results import Grade
from ggufkit.evaluation.verify import CHECKS, verify

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

Converted = Callable[..., tuple[Path, Path]]


def failed(model: Path, checkpoint: Path, *, skip: tuple[str, ...] = ()) -> set[str]:
    result = verify(model, checkpoint, skip=skip, prompt_tokens=48, threads=2)
    assert not [
        check.summary for check in result.checks if check.grade is Grade.SKIPPED and check.summary != "as asked"
    ]
    return {check.name.replace(" ", "-") for check in result.checks if check.grade is Grade.FAILED}


def transposed(data: np.ndarray) -> np.ndarray:
    return data.T.copy()


def without_one(data: np.ndarray) -> np.ndarray:
    return data - 1


def back_to_halves(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Undo the conversion's permutation of q and k: rows as Hugging Face stores them."""

    def undo(data: np.ndarray) -> np.ndarray:
        return data.reshape(heads, -1, 2, data.shape[-1]).swapaxes(1, 2).reshape(data.shape).copy()

    return undo


def swapped(data: np.ndarray) -> np.ndarray:
    return data[[1, 0, *range(2, len(data))]].copy()


@pytest.mark.parametrize(
    ("name", "tensor", "change"),
    [
        ("demo", "blk.1.attn_output.weight", transposed),
        ("gemma2", "blk.1.ffn_norm.weight", without_one),
        ("demo", "blk.0.attn_q.weight", back_to_halves(4)),
        ("demo", "blk.2.attn_k.weight", back_to_halves(2)),
        ("mixtral", "blk.1.ffn_down_exps.weight", swapped),
    ],
    ids=["transposed", "norm without its one", "q not permuted", "k not permuted", "experts swapped"],
)
def test_one_wrong_tensor(
    name: str, tensor: str, change: Callable[[np.ndarray], np.ndarray], converted: Converted, tmp_path: Path
) -> None:
    model, checkpoint = converted(name)
    damaged = with_tensor(model, tmp_path / "damaged.gguf", tensor, change)
    assert failed(damaged, checkpoint, skip=("tokens", "chat-template")) == {"tensors", "logits"}


def test_wrong_rope_base(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    damaged = with_metadata(model, tmp_path / "damaged.gguf", llama__rope__freq_base=500_000.0)
    assert failed(damaged, checkpoint, skip=("tokens", "chat-template")) == {"metadata", "logits"}


def test_a_missing_rope_base_is_what_llama_cpp_assumes_or_a_fault(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    damaged = with_metadata(model, tmp_path / "demo.gguf", llama__rope__freq_base=None)
    assert failed(damaged, checkpoint, skip=CHECKS[1:]) == set()
    model, checkpoint = converted("llama")
    damaged = with_metadata(model, tmp_path / "llama.gguf", llama__rope__freq_base=None)
    assert failed(damaged, checkpoint, skip=CHECKS[1:]) == {"metadata"}


def test_wrong_pre_tokenizer(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    damaged = with_metadata(model, tmp_path / "damaged.gguf", tokenizer__ggml__pre="gpt-2")
    assert failed(damaged, checkpoint, skip=("tensors", "logits")) == {"metadata", "tokens"}


def test_wrong_chat_template(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    damaged = with_metadata(model, tmp_path / "damaged.gguf", tokenizer__chat_template=template)
    assert failed(damaged, checkpoint, skip=("tensors", "logits")) == {"metadata", "chat-template"}


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0", "Q4_K_M", "Q6_K", "Q3_K_M", "IQ4_XS", "Q5_0"])
def test_a_damaged_byte_in_one_block(outtype: str, converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo", outtype)
    random = np.random.default_rng(5)
    for round_ in range(6):
        at, mask = int(random.integers(0, 20_000)), int(random.integers(1, 256))
        damaged = with_byte(model, tmp_path / f"{round_}.gguf", "blk.1.ffn_gate.weight", at, mask)
        result = verify(damaged, checkpoint, skip=tuple(set(CHECKS) - {"tensors"}), threads=2)
        [check] = [check for check in result.checks if check.name == "tensors"]
        assert check.grade is Grade.FAILED, (at, mask)
        assert len(check.figures["faults"]) == 1
        assert "blk.1.ffn_gate.weight" in check.summary


def test_tensors_missing_added_and_misshapen(converted: Converted, tmp_path: Path) -> None:
    import gguf

    model, checkpoint = converted("demo")
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(tmp_path / "damaged.gguf", "llama")
    for tensor in reader.tensors:
        name = "blk.0.surprise.weight" if tensor.name == "blk.0.attn_v.weight" else tensor.name
        data = np.array(tensor.data)
        writer.add_tensor(name, data.reshape(2, -1) if name == "output_norm.weight" else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = verify(tmp_path / "damaged.gguf", checkpoint, skip=tuple(set(CHECKS) - {"tensors"}))
    [check] = [check for check in result.checks if check.name == "tensors"]
    assert set(check.figures["faults"]) == {
        "blk.0.attn_v.weight is missing",
        "blk.0.surprise.weight is not a tensor of this model",
        "output_norm.weight has shape (2, 128), expected (256,)",
    }


def test_the_checkpoint_of_another_architecture(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    other = shutil.copytree(checkpoint, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "model_type": "gemma", "architectures": ["GemmaForCausalLM"]})
    )
    result = verify(model, other, skip=("logits", "tokens", "chat-template"))
    assert {check.grade for check in result.checks if check.summary != "as asked"} == {Grade.FAILED}
    assert "'gemma'" in result.checks[0].summary


def test_a_checkpoint_with_fewer_tokens(converted: Converted, tmp_path: Path) -> None:
    model, _ = converted("demo")
    other = recipes.checkpoint("qwen2", tmp_path / "other")
    result = verify(model, other, skip=("tokens", "chat-template"), prompt_tokens=20)
    assert {check.name for check in result.checks if check.grade is Grade.FAILED} == {"metadata", "tensors", "logits"}
    assert "the checkpoint embeds only 384" in result.checks[-1].summary
