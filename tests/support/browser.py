"""A headless Chromium, driven through chromedriver by the W3C WebDriver protocol."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

PATIENCE = 120.0
ENTER, ESCAPE = "\ue007", "\ue00c"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def why_not() -> str | None:
    """Say why there is no browser here; None when there is one."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}" if missing else None


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        self._address = address
        wanted = {
            "goog:chromeOptions": {"args": _ARGUMENTS, "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        """Go to a page, and wait until its scripts have run: on a busy machine the driver is back before."""
        self.run("document.documentElement.dataset.left = 'yes'")
        self._call("POST", "/url", {"url": url})
        self.wait("return !document.documentElement.dataset.left && document.readyState == 'complete'")

    def close(self) -> None:
        self._call("DELETE", "")

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str, *arguments: object) -> Any:
        """Run JavaScript that hands its result to the last of its arguments, a function."""
        return self._call("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def show_as(self, *, width: int = 1100, dark: bool = False, media: str = "screen") -> None:
        """Pretend to be a window of some width, a person who likes it dark, or a printer."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setEmulatedMedia", media=media, features=features)
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", **size)

    def _devtools(self, command: str, **parameters: object) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def type(self, selector: str, keys: str) -> None:
        self._call("POST", f"/element/{self._find(selector)}/value", {"text": keys})

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._find(selector)}/click", {})

    def text(self, selector: str) -> str:
        """Return what a person sees of an element; nothing where there is none."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def role(self, selector: str) -> tuple[str, str]:
        """Return how an element is announced to people who cannot see it: its role and its name."""
        element = self._find(selector)
        return self._call("GET", f"/element/{element}/computedrole"), self._call(
            "GET", f"/element/{element}/computedlabel"
        )

    def wait(self, script: str, *arguments: object) -> Any:
        """Wait until a piece of JavaScript returns something true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"{script}: {self.text('body')}"
            time.sleep(0.05)
        return found

    def requested(self) -> list[str]:
        """Return the addresses that the page asked for since the last call."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return what the browser wrote on its console."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def picture(self) -> bytes:
        """Return a PNG of the window."""
        return base64.b64decode(self._call("GET", "/screenshot"))

    def _find(self, selector: str) -> str:
        return self._call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.loads(error.read())["value"]["message"]) from None


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start one, and end it."""
    with subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        try:
            assert driver.stdout is not None
            port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            window = Browser(f"http://127.0.0.1:{port}")
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
            driver.wait(PATIENCE)
