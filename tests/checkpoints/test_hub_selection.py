"""Choosing files: real layouts of repositories, and what a person may write for one of their models."""

from collections.abc import Iterable

import pytest

from ggufkit.checkpoints.hub import Listing, RemoteFile, Repository, model_name, repository
from ggufkit.checkpoints.hub_plan import Kind, PullOptions, choose
from ggufkit.checkpoints.hub_selection import choose_checkpoint, choose_gguf, gguf_models, holds_checkpoint, projectors
from ggufkit.errors import HubError


def listing(*paths: str) -> Listing:
    return Listing(
        Repository("someone/model"), "0" * 40, tuple(RemoteFile(path, 1000 + n) for n, path in enumerate(paths))
    )


def chosen(files: Listing, index: Iterable[str] = ()) -> list[str]:
    return sorted(file.path for file in choose_checkpoint(files, lambda _: index))


SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE")


def test_safetensors_are_taken_once() -> None:
    files = listing(
        *SMALL,
        "model.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "consolidated.safetensors",
        "tf_model.h5",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "modeling_custom.py",
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "model.gguf",
    )
    assert chosen(files) == sorted([*SMALL, "model.safetensors"])


def test_shards_are_those_of_the_index() -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    stray = "model-00001-of-00003.safetensors"
    files = listing(*SMALL, "model.safetensors.index.json", *shards, stray)
    assert chosen(files, shards) == sorted([*SMALL, "model.safetensors.index.json", *shards])
    with pytest.raises(HubError, match="lacks model-00002-of-00002"):
        chosen(listing(*SMALL, "model.safetensors.index.json", shards[0]), shards)


def test_shards_without_an_index_must_be_all_there() -> None:
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert chosen(listing(*SMALL, *shards)) == sorted([*SMALL, *shards])
    with pytest.raises(HubError, match="of 3 shards"):
        chosen(listing(*SMALL, *shards[:2]))


def test_bin_where_there_is_nothing_else() -> None:
    shards = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    files = listing(*SMALL, "pytorch_model.bin.index.json", *shards)
    assert chosen(files, shards) == sorted([*SMALL, "pytorch_model.bin.index.json", *shards])
    assert chosen(listing(*SMALL, "pytorch_model.bin")) == sorted([*SMALL, "pytorch_model.bin"])


def test_adapters_and_sentence_transformers() -> None:
    adapter = ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert chosen(listing(*adapter, "checkpoint-100/adapter_model.safetensors")) == sorted(adapter)
    modules = ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    files = listing(*SMALL, "model.safetensors", *modules, "openvino/openvino_model.bin")
    assert chosen(files) == sorted([*SMALL, "model.safetensors", *modules])


def test_a_config_and_a_matrix_make_no_checkpoint() -> None:
    files = listing("config.json", "imatrix.bin", "training_args.bin", "model-Q4_K_M.gguf", "model-Q8_0.gguf")
    assert not holds_checkpoint(files)
    assert choose(files, None, PullOptions()).model == "model-Q4_K_M.gguf"
    both = listing("config.json", "model.safetensors", "model-Q4_K_M.gguf")
    assert choose(both, None, PullOptions()).model is None
    assert choose(both, None, PullOptions(Kind.GGUF)).model == choose(both, "q4_k_m", PullOptions()).model
    wanted = choose(both, None, PullOptions(include=("*.gguf",)))
    assert [file.path for file in wanted.files] == [wanted.model] == ["model-Q4_K_M.gguf"]


def test_no_checkpoint() -> None:
    with pytest.raises(HubError, match=r"no config\.json"):
        chosen(listing("model-Q4_K_M.gguf"))
    with pytest.raises(HubError, match="no weights"):
        chosen(listing(*SMALL, "tf_model.h5"))


GGUF = listing(
    "README.md",
    "Model-1B-IQ4_XS.gguf",
    "Model-1B-Q4_K_M.gguf",
    "Model-1B-UD-Q4_K_XL.gguf",
    "Model-1B.q5_0.gguf",
    "Q8_0/Model-1B-Q8_0-00001-of-00002.gguf",
    "Q8_0/Model-1B-Q8_0-00002-of-00002.gguf",
    "BF16/Model-1B-BF16-00001-of-00003.gguf",
    "Model-1B-fp16.gguf",
    "mmproj-F16.gguf",
    "mmproj-Model-1B-BF16.gguf",
    "imatrix.gguf",
    "Model-1B-imatrix.gguf",
)


@pytest.mark.parametrize(
    ("written", "path", "files"),
    [
        (None, "Model-1B-Q4_K_M.gguf", 1),
        ("q4_k_m", "Model-1B-Q4_K_M.gguf", 1),
        ("Q4-K-M", "Model-1B-Q4_K_M.gguf", 1),
        ("iq4_xs", "Model-1B-IQ4_XS.gguf", 1),
        ("UD-Q4_K_XL", "Model-1B-UD-Q4_K_XL.gguf", 1),
        ("q4_k_xl", "Model-1B-UD-Q4_K_XL.gguf", 1),
        ("Q5_0", "Model-1B.q5_0.gguf", 1),
        ("q8_0", "Q8_0/Model-1B-Q8_0-00001-of-00002.gguf", 2),
        ("F16", "Model-1B-fp16.gguf", 1),
        ("Model-1B-IQ4_XS.gguf", "Model-1B-IQ4_XS.gguf", 1),
    ],
)
def test_a_quantization(written: str | None, path: str, files: int) -> None:
    found = choose_gguf(GGUF, written)
    assert (found.path, len(found.files)) == (path, files)


def test_what_there_is_is_listed() -> None:
    with pytest.raises(HubError, match=r"no quantization 'Q2_K': IQ4_XS \(0\.0 MB\), Q4_K_M") as caught:
        choose_gguf(GGUF, "Q2_K")
    assert caught.value.hint == "for example someone/model:IQ4_XS"
    with pytest.raises(HubError, match=r"parts of BF16/.* are missing"):
        choose_gguf(GGUF, "bf16")
    twice = listing("a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "c-Q8_0.gguf")
    with pytest.raises(HubError, match=r"holds 2 models that 'q4_k_m' may mean: a-Q4_K_M\.gguf"):
        choose_gguf(twice, "q4_k_m")
    with pytest.raises(HubError, match="holds 2 GGUF models; say which"):
        choose_gguf(listing("a-Q6_K.gguf", "c-Q8_0.gguf"), None)
    assert choose_gguf(listing("only-Q6_K.gguf"), None).path == "only-Q6_K.gguf"


def test_projectors_and_matrices_are_no_models() -> None:
    assert [model.path for model in projectors(GGUF)] == ["mmproj-F16.gguf", "mmproj-Model-1B-BF16.gguf"]
    assert not any("imatrix" in model.path or "mmproj" in model.path for model in gguf_models(GGUF))


def test_names() -> None:
    for text in (
        "hf://a/b:Q4_K_M@v1",
        "hf:/a/b:Q4_K_M@v1",
        "hf.co/a/b:Q4_K_M@v1",
        "https://huggingface.co/a/b:Q4_K_M@v1",
    ):
        name = model_name(text)
        assert name is not None
        assert (name.repository.id, name.quantization, name.repository.revision) == ("a/b", "Q4_K_M", "v1")
        assert name.explicit
    for text in ("model.gguf", "./a/b", "../b", "/a/b", "a/b/c", "~/a", "folder/model.gguf", "a/", "a b/c", "-a/b"):
        assert model_name(text) is None, text
    assert repository("a/b@main") == Repository("a/b", "main")
    assert repository("a/b:Q4_0") is None
