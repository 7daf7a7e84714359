"""What others say of a page of ours: axe-core in the browser, html5lib's strict parser, the W3C's validator."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from browser import Browser

_RUN_AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then((found) => done(found.violations.map((each) =>
  [each.impact, each.id, each.nodes.map((node) => node.html.slice(0, 200) + " " + node.failureSummary)])));
"""


def axe() -> Path | None:
    """Find axe-core: the file that $GGUFKIT_AXE names, or that of the package axe-playwright-python."""
    if named := os.environ.get("GGUFKIT_AXE"):
        return Path(named)
    found = importlib.util.find_spec("axe_playwright_python")
    places = found.submodule_search_locations if found else None
    path = Path(next(iter(places))) / "axe.min.js" if places else None
    return path if path and path.exists() else None


def faults_for_people(window: Browser, script: Path) -> list[Any]:
    """Return what axe-core finds wrong with the page that is open: how bad, the rule, where."""
    window.run(f"{script.read_text(encoding='utf-8')}; window.axe = axe;")
    return window.run_async(_RUN_AXE)


def validator() -> list[str] | None:
    """Find the W3C's validator (vnu.jar, $GGUFKIT_VNU) and a Java to run it."""
    jar, java = os.environ.get("GGUFKIT_VNU"), shutil.which("java")
    return [java, "-jar", jar] if jar and java else None


def faults_by_validator(command: list[str], page: Path) -> str:
    """Return the errors and warnings that it writes; nothing for a valid page."""
    return subprocess.run([*command, page], capture_output=True, text=True, check=False).stderr
