"""Whatever stands in a config.json, the answer is a plan or one line of explanation, for every architecture."""

import json
import zlib
from pathlib import Path

import pytest
from recipes import RECIPES, checkpoint, golden

from ggufkit.architectures import CATALOGUE, spec_for
from ggufkit.checkpoints import Config, open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.plan import make_plan
from ggufkit.errors import GgufkitError

STRANGE = ("text", -1, 0, 2.5, [], [None], {}, {"full_attention": 1}, True, 10**12, [1, 2], "", 1e308)
# keys that name the architecture, not a property of it
NAMES = {"architectures", "model_type"}


def one_recipe_of_each() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in RECIPES:
        config = Config(golden(name)["config"])
        found.setdefault(f"{spec_for(config.architecture, config.model_type).name}", name)
    return found


@pytest.mark.parametrize("name", one_recipe_of_each().values())
def test_strange_values_are_explained(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    config = golden(name)["config"]
    for place in (config, config.get("text_config") or {}):
        for key in place.keys() - NAMES:
            for change in range(2):
                value = STRANGE[(zlib.crc32(f"{name} {key}".encode()) + 5 * change) % len(STRANGE)]
                before, place[key] = place[key], value
                (folder / "config.json").write_text(json.dumps(config))
                place[key] = before
                try:
                    with open_checkpoint(folder) as opened:
                        spec = spec_for(opened.config.architecture, opened.config.model_type)
                        make_plan(opened, spec, OutputType.F16, description={})
                except GgufkitError:
                    pass
                except Exception as error:  # noqa: BLE001 - this is what must not come
                    pytest.fail(f"{key} = {value!r}: {type(error).__name__}: {error}")


def test_every_architecture_is_among_them() -> None:
    assert {spec.name for spec in CATALOGUE} == set(one_recipe_of_each())
