"""GGUF adapters: equal to those of llama.cpp's convert_lora_to_gguf.py, right where that one is not, and refusals."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import lora_adapters
import numpy as np
import pytest
import tiny_checkpoints
from safetensors.numpy import load_file

from ggufkit.conversion import OutputType, convert
from ggufkit.conversion.adapters import convert_lora
from ggufkit.errors import CheckpointError
from ggufkit.evaluation.results import Verdict
from ggufkit.evaluation.verify import verify
from ggufkit.llamacpp.find import find_source


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("bases")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            tiny_checkpoints.make(name, folder, "bfloat16")
        return folder

    return make


def contents(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    reader = gguf.GGUFReader(path)
    fields = {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith(("GGUF.", "ggufkit."))
    }
    return fields, {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "modules", "outtype"),
    [
        ("llama", (*lora_adapters.ATTENTION_AND_MLP, "lm_head", "embed_tokens"), "f32"),
        ("llama", lora_adapters.ATTENTION_AND_MLP, "f16"),
        ("gemma2", lora_adapters.ATTENTION_AND_MLP, "bf16"),
        ("qwen3", lora_adapters.ATTENTION_AND_MLP, "q8_0"),
        ("mixtral", ("q_proj", "v_proj", "w1", "w2", "w3"), "f32"),
    ],
)
def test_equals_llama_cpp(name: str, modules: tuple[str, ...], outtype: str, base: Any, tmp_path: Path) -> None:
    adapter = lora_adapters.write(base(name), tmp_path / "my-adapter", modules)
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    result = convert_lora(adapter, base(name), ours, outtype=OutputType(outtype))
    script = find_source() / "convert_lora_to_gguf.py"
    command = [sys.executable, script, "--base", base(name), "--outtype", outtype, "--outfile", theirs, adapter]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert contents(ours) == contents(theirs)
    assert result.alpha == 8
    assert "ggufkit.base.fingerprint" in gguf.GGUFReader(ours).fields


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_engine_agrees_with_transformers(name: str, base: Any, tmp_path: Path) -> None:
    """Rank-stabilized, with patterns of ranks and alphas: what llama.cpp's converter gets wrong."""
    adapter = lora_adapters.write(
        base(name),
        tmp_path / "adapter",
        ranks={"q_proj": 6, "0.mlp.up_proj": 2},
        use_rslora=True,
        alpha_pattern={"v_proj": 3, r"layers\.1\.mlp\.down_proj": 20},
    )
    convert(base(name), tmp_path / "model.gguf", outtype=OutputType.F32)
    convert_lora(adapter, base(name), tmp_path / "adapter.gguf")
    lora = (tmp_path / "adapter.gguf", adapter)
    together = verify(
        tmp_path / "model.gguf", base(name), lora=lora, skip=("tokens", "chat-template"), prompt_tokens=32
    )
    by_name = {check.name: check for check in together.checks}
    assert together.verdict is not Verdict.FAILED
    assert by_name["logits"].figures["against_float32"]["nmse"] < 1e-6
    other = lora_adapters.write(base(name), tmp_path / "other", alpha=9)
    apart = verify(tmp_path / "model.gguf", base(name), lora=(lora[0], other), skip=("tokens",), prompt_tokens=32)
    assert {check.name for check in apart.checks if check.grade == "failed"} == {"adapter", "logits"}


def test_scales_of_single_modules_go_into_b(base: Any, tmp_path: Path) -> None:
    """llama.cpp multiplies by alpha / rank; what a module has beyond that must be in its factors."""
    adapter = lora_adapters.write(
        base("qwen3"), tmp_path / "adapter", ("v_proj", "o_proj"), ranks={"o_proj": 2}, alpha_pattern={"o_proj": 5}
    )
    convert_lora(adapter, base("qwen3"), tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    alpha = reader.fields["adapter.lora.alpha"].contents()
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    stored = load_file(adapter / "adapter_model.safetensors")
    for module, name, scale in (("v_proj", "attn_v", 8 / 4), ("o_proj", "attn_output", 5 / 2)):
        a, b = (tensors[f"blk.0.{name}.weight.lora_{part}"].astype(np.float64) for part in "ab")
        path = f"base_model.model.model.layers.0.self_attn.{module}.lora_"
        wanted = scale * stored[f"{path}B.weight"].astype(np.float64) @ stored[f"{path}A.weight"]
        np.testing.assert_allclose(alpha / b.shape[1] * b @ a, wanted, rtol=1e-6, atol=1e-7)


def test_rank_stabilized(base: Any, tmp_path: Path) -> None:
    adapter = lora_adapters.write(base("qwen3"), tmp_path / "adapter", ("v_proj",), use_rslora=True)
    result = convert_lora(adapter, base("qwen3"), tmp_path / "out.gguf")
    assert math.isclose(result.alpha, 8 * math.sqrt(4))


def test_some_experts_only(base: Any, tmp_path: Path) -> None:
    """An expert without factors gets zeros: the stack has a place for every one."""
    adapter = lora_adapters.write(base("mixtral"), tmp_path / "adapter", ("experts.2.w1",))
    convert_lora(adapter, base("mixtral"), tmp_path / "out.gguf")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    b = tensors["blk.0.ffn_gate_exps.weight.lora_b"]
    assert b.shape == (4, 96, 4)
    assert [bool(np.any(expert)) for expert in b] == [False, False, True, False]


@pytest.mark.parametrize(
    ("modules", "more", "message"),
    [
        (("q_proj",), {"use_dora": True}, "DoRA"),
        (("q_proj",), {"peft_type": "LOHA"}, "only LORA"),
        (("q_proj",), {"bias": "all"}, "trained biases"),
        (("q_proj",), {"lora_alpha": 0}, "lora_alpha is 0"),
        (("q_proj",), {"alpha_pattern": {"(": 1}}, "no pattern"),
        (("nothing",), {}, "no LoRA factors"),
    ],
)
def test_refused(modules: tuple[str, ...], more: dict[str, Any], message: str, base: Any, tmp_path: Path) -> None:
    adapter = lora_adapters.write(base("llama"), tmp_path / "adapter", modules, **more)
    with pytest.raises(CheckpointError, match=message):
        convert_lora(adapter, base("llama"), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def factors(module: str, rows: int, columns: int) -> dict[str, np.ndarray]:
    path = f"base_model.model.{module}"
    return {
        f"{path}.lora_A.weight": np.ones((2, columns), np.float32),
        f"{path}.lora_B.weight": np.ones((rows, 2), np.float32),
    }


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (
            factors("model.layers.0.self_attn.z_proj", 64, 64),
            "'model.layers.0.self_attn.z_proj', which the base has not",
        ),
        (factors("model.layers.0.self_attn.q_proj", 32, 64), "is this the base"),
        ({"base_model.model.lm_head.weight": np.ones((384, 64), np.float32)}, "modules_to_save"),
        ({"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.ones((2, 64), np.float32)}, "no lora_B"),
        ({"base_model.model.x.lora_magnitude_vector": np.ones(3, np.float32)}, "DoRA"),
    ],
)
def test_what_does_not_fit_is_named(whole: dict[str, np.ndarray], message: str, base: Any, tmp_path: Path) -> None:
    adapter = lora_adapters.write(base("llama"), tmp_path / "adapter", ("v_proj",), whole=whole)
    with pytest.raises(CheckpointError) as caught:
        convert_lora(adapter, base("llama"), tmp_path / "out.gguf")
    assert message in f"{caught.value} {caught.value.hint}"


def test_an_embedding_that_is_the_output_is_refused(base: Any, tmp_path: Path) -> None:
    """llama.cpp aborts on it."""
    adapter = lora_adapters.write(base("llama-tied"), tmp_path / "adapter", ("embed_tokens",))
    with pytest.raises(CheckpointError, match="output as well"):
        convert_lora(adapter, base("llama-tied"), tmp_path / "out.gguf")


def test_latent_attention_is_refused_where_llama_cpp_would_add_nothing(base: Any, tmp_path: Path) -> None:
    adapter = lora_adapters.write(base("deepseek-v2"), tmp_path / "adapter", ("kv_b_proj",))
    with pytest.raises(CheckpointError, match="kv_b_proj"):
        convert_lora(adapter, base("deepseek-v2"), tmp_path / "out.gguf")


def test_no_config(base: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        convert_lora(base("llama"), base("llama"), tmp_path / "out.gguf")
    adapter = lora_adapters.write(base("llama"), tmp_path / "adapter", ("v_proj",))
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": "x", "lora_alpha": 1}))
    with pytest.raises(CheckpointError, match="r is 'x'"):
        convert_lora(adapter, base("llama"), tmp_path / "out.gguf")
