"""The catalogue is consistent with itself and with the names that GGUF defines."""

import re

import gguf
import pytest

from ggufkit import architectures
from ggufkit.architectures import CATALOGUE, ArchSpec, Rule, nearest, spec_for
from ggufkit.errors import UnsupportedArchitectureError


def targets(spec: ArchSpec) -> set[str]:
    """Every GGUF name that the spec can write, without .weight or .bias."""
    names: set[str] = set()
    for entry in {pattern: entry for table in spec.tensors for pattern, entry in table.items()}.values():
        if isinstance(entry, Rule):
            names.update(entry.targets)
        elif entry is not None:
            names.add(entry)
    return names


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
class TestEverySpec:
    def test_its_targets_are_tensors_that_gguf_knows_for_it(self, spec: ArchSpec) -> None:
        [architecture] = [number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == spec.name]
        known = {gguf.TENSOR_NAMES[tensor].replace("{bid}", "{b}") for tensor in gguf.MODEL_TENSORS[architecture]}
        # exp_probs_b is written as "exp_probs_b.bias": the suffix is part of the rule
        assert {name.removesuffix(".bias") for name in targets(spec)} - known == set()

    def test_its_requirements_and_shapes_are_of_tensors_that_it_can_write(self, spec: ArchSpec) -> None:
        writable = {name.removesuffix(".bias") for name in targets(spec)}
        tied = {"output"}  # the shared table of shapes has it, an architecture that ties its output does not
        required = {name for part in (spec.required, spec.dense, spec.sparse) for names in part for name in names}
        shaped = {name for table in spec.shapes for name in table}
        assert {name.removesuffix(".weight").removesuffix(".bias") for name in shaped} - tied == writable - tied
        assert required <= shaped

    def test_no_two_patterns_match_one_name(self, spec: ArchSpec) -> None:
        patterns = {pattern for table in spec.tensors for pattern in table}
        for pattern in patterns:
            name = pattern.format(b=7, e=3)
            matching = [
                other
                for other in patterns
                if re.fullmatch(re.escape(other).replace(r"\{b\}", r"\d+").replace(r"\{e\}", r"\d+"), name)
            ]
            assert matching == [pattern]

    def test_its_defaults_are_for_architectures_that_it_converts(self, spec: ArchSpec) -> None:
        assert set(spec.defaults) <= set(spec.hf_architectures)


def test_an_architecture_has_one_spec() -> None:
    names = [name for spec in CATALOGUE for name in spec.hf_architectures]
    assert len(names) == len(set(names))


def test_unknown_architectures_get_their_neighbours() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="LlamaForCausalLM"):
        spec_for("LlammaForCausalLM")
    assert nearest("Qwen4ForCausalLM", also=["Qwen4ForCausalLm"])[0] == "Qwen4ForCausalLm"


@pytest.mark.oracle
@pytest.mark.parametrize("name", architectures.hf_architectures())
def test_defaults_are_those_of_transformers(name: str) -> None:
    """What we assume for a key that config.json omits is what transformers assumes."""
    import transformers

    defaults = dict(spec_for(name).defaults[name])
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))().to_dict()
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    assert {key: config[key] for key in defaults} == defaults
