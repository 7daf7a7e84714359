"""`ggufkit eval --list-baselines` and `--remove-baseline`: what was installed for baselines, and getting rid of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.evaluation.baselines.environments import Kept

UNUSED = "unused"


def manage(removed: Sequence[str], *, as_json: bool, quiet: bool) -> None:
    """Remove the environments that are named, `all`, or `unused`; without names show what there is.

    Raises:
        UsageError: no baseline has such a name.
        OutputError: one is being made, or cannot be removed.
    """
    from ggufkit.evaluation.baselines import environments
    from ggufkit.evaluation.baselines.catalogue import baselines, named

    known = baselines()
    recipes = {it.recipe.name: it.recipe for it in known.values()}
    found = environments.kept(recipes.values())
    names = [part.strip() for text in removed for part in text.split(",") if part.strip()]
    if removed:
        # One of an older ggufkit may have a name that is not known any more.
        old = {it.recipe for it in found} - recipes.keys()
        asked = {it.recipe.name for it in named([name for name in names if name != UNUSED and name not in old])}
        everything = asked | (old if "all" in names else old & set(names))
        gone = [it for it in found if it.recipe in everything or (UNUSED in names and not it.ready)]
        for it in gone:
            environments.remove(it)
        if as_json:
            _output.print_json({"removed": [_row(it) for it in gone]})
        elif not quiet:
            for it in gone:
                print(f"removed {it.recipe}: {it.folder} ({_output.size(it.bytes)})")
            print(f"{_output.size(sum(it.bytes for it in gone))} are free again" if gone else "there was none of these")
        return
    if as_json:
        rows = [{"name": name, "baselines": _of(name), "state": _state(name, found)} for name in recipes]
        _output.print_json({"baselines": rows, "environments": [_row(it) for it in found]})
        return
    for name in recipes:
        print(f"{name}: {_state(name, found)} ({', '.join(_of(name))})")
    for it in found:
        use = "" if it.ready else ", not used: --remove-baseline unused"
        print(f"{it.folder}: {_output.size(it.bytes)}{use}")
    print(f"{_output.size(sum(it.bytes for it in found))} altogether" if found else "nothing was installed for them")


def _row(it: "Kept") -> dict[str, object]:
    return {"name": it.recipe, "folder": str(it.folder), "bytes": it.bytes, "ready": it.ready}


def _of(recipe: str) -> list[str]:
    from ggufkit.evaluation.baselines.catalogue import baselines

    return [it.name for it in baselines().values() if it.recipe.name == recipe]


def _state(name: str, found: "Sequence[Kept]") -> str:
    from ggufkit.evaluation.baselines import environments
    from ggufkit.evaluation.baselines.catalogue import baselines

    if any(it.ready and it.recipe == name for it in found):
        return "installed"
    recipe = next(it.recipe for it in baselines().values() if it.recipe.name == name)
    return "this Python has what it needs" if environments.find(recipe) else "not installed"
