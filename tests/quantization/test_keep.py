"""Hugging Face's words for tensors: exact for a checkpoint, by known names for any GGUF file, and never half of one."""

import pytest

from ggufkit.errors import UsageError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.keep import parse_keep, tensors_to_keep

BLOCKS = 4
PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
LLAMA = [
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    *(f"blk.{block}.{part}.weight" for block in range(BLOCKS) for part in PARTS),
]


def kept(text: str, names: list[str] = LLAMA, architecture: str = "llama", modules=None) -> list[str]:
    return sorted(tensors_to_keep(parse_keep(text), names, architecture, modules).types)


@pytest.mark.parametrize(
    ("words", "tensors"),
    [
        ("lm_head", ["output.weight"]),
        ("lm_head,embed_tokens", ["output.weight", "token_embd.weight"]),
        ("model.embed_tokens", ["token_embd.weight"]),
        ("model.embed_tokens.weight", ["token_embd.weight"]),
        ("norm", ["output_norm.weight"]),
        ("input_layernorm", [f"blk.{b}.attn_norm.weight" for b in range(BLOCKS)]),
        ("down_proj", [f"blk.{b}.ffn_down.weight" for b in range(BLOCKS)]),
        ("mlp.down_proj", [f"blk.{b}.ffn_down.weight" for b in range(BLOCKS)]),
        ("model.layers.3.mlp.down_proj", ["blk.3.ffn_down.weight"]),
        ("layers.3.mlp.down_proj", ["blk.3.ffn_down.weight"]),
        ("layers.0-1.mlp.down_proj", ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]),
        ("layers.2-.mlp.down_proj", ["blk.2.ffn_down.weight", "blk.3.ffn_down.weight"]),
        ("layers.-1.mlp.down_proj", ["blk.3.ffn_down.weight"]),
        ("layers.*.mlp.down_proj", [f"blk.{b}.ffn_down.weight" for b in range(BLOCKS)]),
        ("layers.2.self_attn", [f"blk.2.attn_{part}.weight" for part in ("k", "output", "q", "v")]),
        ("layers.2.self_attn.[qk]_proj", ["blk.2.attn_k.weight", "blk.2.attn_q.weight"]),
        ("layers.1", sorted(f"blk.1.{part}.weight" for part in PARTS)),
        ("*_proj", sorted(f"blk.{b}.{part}.weight" for b in range(BLOCKS) for part in PARTS if "norm" not in part)),
        # GGUF's own names, for those who know them.
        ("output", ["output.weight"]),
        ("token_embd", ["token_embd.weight"]),
        ("attn_v", [f"blk.{b}.attn_v.weight" for b in range(BLOCKS)]),
        ("blk.0-1.attn_v", ["blk.0.attn_v.weight", "blk.1.attn_v.weight"]),
        ("blk.2.ffn_down.weight", ["blk.2.ffn_down.weight"]),
    ],
)
def test_words_mean_tensors(words: str, tensors: list[str]):
    assert kept(f"{words}=f16") == tensors


def test_the_type_and_its_absence():
    assert parse_keep("lm_head, norm = q8_0") == (("lm_head", TensorType.Q8_0), ("norm", TensorType.Q8_0))
    assert parse_keep("lm_head") == (("lm_head", None),)
    for text in ("", "lm_head,=f16", "=f16", "lm_head="):
        with pytest.raises(UsageError, match="not of the form"):
            parse_keep(text)
    with pytest.raises(UsageError, match="unknown tensor type 'Q4_K_M'"):
        parse_keep("lm_head=Q4_K_M")


def test_of_two_words_for_one_tensor_the_first_counts():
    words = (*parse_keep("layers.0.mlp.down_proj=q8_0"), *parse_keep("mlp=q6_k"))
    types = tensors_to_keep(words, LLAMA, "llama").types
    assert types["blk.0.ffn_down.weight"] is TensorType.Q8_0
    assert types["blk.1.ffn_down.weight"] is TensorType.Q6_K


def test_a_tied_output_layer_is_the_embeddings():
    tied = [name for name in LLAMA if name != "output.weight"]
    found = tensors_to_keep(parse_keep("lm_head=f16"), tied, "llama")
    assert list(found.types) == ["token_embd.weight"]
    assert "lm_head is tied to the embeddings" in found.notes[0]


@pytest.mark.parametrize(
    ("word", "hint"), [("self_atn", "self_attn"), ("layers.9.mpl", "mlp"), ("model.norms", "norm"), ("xyz", "some are")]
)
def test_words_that_mean_nothing_are_refused_with_the_nearest(word: str, hint: str):
    with pytest.raises(UsageError, match=f"no module of this model is called '{word}'") as caught:
        kept(f"{word}=f16")
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("word", "block"),
    [("layers.9", "9"), ("model.layers.4.mlp.down_proj", "4"), ("blk.7.ffn_down", "7"), ("layers.-9", "-9"),
     ("layers.8-12.mlp", "8-12")],
)  # fmt: skip
def test_a_block_that_the_model_does_not_have_is_named(word: str, block: str):
    with pytest.raises(UsageError, match=f"no block {block}$") as caught:
        kept(f"{word}=f16")
    assert caught.value.hint == "its blocks are 0 to 3"


EXPERTS = {
    f"model.layers.{block}.mlp.experts.{expert}.{ours}.weight": (f"blk.{block}.ffn_{theirs}_exps.weight",)
    for block in range(2)
    for expert in range(3)
    for ours, theirs in (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))
} | {
    "model.layers.0.self_attn.kv_b_proj.weight": ("blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"),
    "model.layers.0.self_attn.q_proj.weight": ("blk.0.attn_qkv.weight",),
    "model.layers.0.self_attn.k_proj.weight": ("blk.0.attn_qkv.weight",),
    "model.layers.0.self_attn.k_proj.bias": ("blk.0.attn_qkv.bias",),
    "model.layers.0.self_attn.q_proj.bias": ("blk.0.attn_qkv.bias",),
}
NAMES = list(dict.fromkeys(name for targets in EXPERTS.values() for name in targets))


def test_a_checkpoint_knows_exactly_what_became_what():
    assert kept("experts=f16", NAMES, "x", EXPERTS) == sorted(name for name in NAMES if "exps" in name)
    assert kept("layers.1.mlp.experts=f16", NAMES, "x", EXPERTS) == [
        f"blk.1.ffn_{part}_exps.weight" for part in ("down", "gate", "up")
    ]
    assert kept("kv_b_proj=f16", NAMES, "x", EXPERTS) == ["blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"]
    assert kept("q_proj,k_proj=f16", NAMES, "x", EXPERTS) == ["blk.0.attn_qkv.bias", "blk.0.attn_qkv.weight"]


@pytest.mark.parametrize("words", ["experts.1", "layers.0.mlp.experts.0-1.up_proj", "q_proj"])
def test_a_part_of_what_is_one_tensor_is_refused(words: str):
    with pytest.raises(UsageError, match="has one type for all"):
        kept(f"{words}=f16", NAMES, "x", EXPERTS)


def test_architectures_without_a_spec_of_ours_are_known_by_the_gguf_package():
    names = [
        "token_embd.weight",
        "output.weight",
        "blk.0.attn_q.weight",
        "blk.0.ffn_down.weight",
        "blk.1.ffn_up.weight",
    ]
    assert kept("lm_head=f16", names, "arctic") == ["output.weight"]
    assert kept("layers.1.residual_mlp.w3=f16", names, "arctic") == ["blk.1.ffn_up.weight"]
    assert kept("attn_q=f16", names, "nobody-knows") == ["blk.0.attn_q.weight"]
