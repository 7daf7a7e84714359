"""The catalogue is consistent with itself, with the names that GGUF defines, and with what transformers assumes."""

import importlib.util
import re
from types import ModuleType

import pytest

from ggufkit.architectures import CATALOGUE, ArchSpec, names, nearest, spec_for, tensors
from ggufkit.checkpoints.config import SPELLINGS
from ggufkit.conversion.tensors import written_targets
from ggufkit.errors import UnsupportedArchitectureError
from ggufkit.llamacpp.find import find_source

# What llama.cpp's graph loads (src/models/) and its list of an architecture's tensors leaves out.
LOADED_ALL_THE_SAME = {"lfm2moe": {"output"}}


@pytest.fixture(scope="module")
def gguf() -> ModuleType:
    """Load the names that GGUF defines from the pinned source: the package on PyPI lags behind it."""
    place = importlib.util.spec_from_file_location("constants", find_source() / "gguf-py" / "gguf" / "constants.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def targets(spec: ArchSpec) -> set[str]:
    """Every GGUF name that the spec can write, `{b}` for the block, with a suffix only where the rule has one."""
    return {name.removesuffix("?") for name in written_targets(spec)}


def bare(name: str) -> str:
    return tensors.bare(name.replace("{b}", "0"))


def sources(spec: ArchSpec) -> list[str]:
    """Every path of a checkpoint that the spec has a rule for."""
    keys = {key for table in spec.tensors for key in table}
    return [path for key in keys for path in ((key,) if isinstance(key, str) else key)]


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: f"{spec.name}-{spec.hf_architectures[0]}")
class TestEverySpec:
    def test_its_targets_are_tensors_that_gguf_knows_for_it(self, spec: ArchSpec, gguf: ModuleType) -> None:
        [architecture] = [number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == spec.name]
        known = {gguf.TENSOR_NAMES[tensor].replace("{bid}", "{b}") for tensor in gguf.MODEL_TENSORS[architecture]}
        # exp_probs_b is written as "exp_probs_b.bias": the suffix is part of the rule
        known |= LOADED_ALL_THE_SAME.get(spec.name, set())
        assert {re.sub(r"\.(weight|bias|scale)$", "", name) for name in targets(spec)} - known == set()

    def test_its_targets_have_shapes(self, spec: ArchSpec) -> None:
        assert [
            name for name in targets(spec) if tensors.weight_shape(name.replace("{b}", "0"), spec.shapes) is None
        ] == []

    def test_what_it_says_of_tensors_is_of_some_that_it_writes(self, spec: ArchSpec) -> None:
        said = {*spec.types, *(name for names_ in spec.either for name in names_)}
        assert {tensors.bare(name) for name in said} - {bare(name) for name in targets(spec)} == set()

    def test_no_two_patterns_match_one_name(self, spec: ArchSpec) -> None:
        patterns = [names.stripped(path) for path in sources(spec)]
        for pattern in patterns:
            name = pattern.format(b=7, e=3)
            matching = [
                other
                for other in patterns
                if re.fullmatch(re.escape(other).replace(r"\{b\}", r"\d+").replace(r"\{e\}", r"\d+"), name)
            ]
            assert matching == [pattern]

    def test_its_metadata_are_keys_that_gguf_knows(self, spec: ArchSpec, gguf: ModuleType) -> None:
        known = set(re.findall(r"'\{arch\}\.([^']+)'", repr(vars_of(gguf.Keys))))
        assert {key for table in spec.metadata for key in table} - known == set()


def vars_of(keys: type) -> list[object]:
    """The strings in gguf's nested classes of metadata keys."""
    return [vars_of(value) if isinstance(value, type) else value for value in vars(keys).values()]


def test_an_architecture_has_one_spec() -> None:
    names = [name for spec in CATALOGUE for name in spec.hf_architectures]
    assert len(names) == len(set(names))


def test_unknown_architectures_get_their_neighbours() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="LlamaForCausalLM"):
        spec_for("LlammaForCausalLM")
    assert nearest("Qwen4ForCausalLM", also=["Qwen4ForCausalLm"])[0] == "Qwen4ForCausalLm"


# Keys that transformers' configs change on the way in: what is looked at here is not what an absent key stands for.
WORKED_OUT = {"sliding_window", "moe_layer_end_index"}


def default_tables() -> list[tuple[str, str]]:
    return [(spec.hf_architectures[0], model_type) for spec in CATALOGUE for model_type in spec.defaults]


@pytest.mark.oracle
@pytest.mark.parametrize(("architecture", "model_type"), default_tables())
def test_defaults_are_those_of_transformers(architecture: str, model_type: str) -> None:
    """What we assume for a key that config.json omits is what transformers assumes."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers does not know {model_type}")
    config = CONFIG_MAPPING[model_type]().get_text_config()
    config.allow_global_per_layer_attribute_access = True  # Gemma 4 has heads of two sizes
    rope = getattr(config, "rope_parameters", None) or {}
    known = {**rope, **rope.get("full_attention", {})}
    known["rope_local_base_freq"] = rope.get("sliding_attention", {}).get("rope_theta")
    spec = spec_for(architecture)
    for key, value in spec.defaults[model_type].items():
        spellings = (key, *SPELLINGS.get(key, ()), *spec.spellings.get(key, ()))
        found = [getattr(config, name, known.get(name)) for name in spellings if hasattr(config, name) or name in known]
        if not found or key in WORKED_OUT:
            continue  # what no config of this kind says: a fact about the model
        if isinstance(value, dict):
            assert {**found[0], **value} == found[0], key
        else:
            assert value in found, key
