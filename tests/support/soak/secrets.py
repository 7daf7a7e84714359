"""A row about secrets: the hub's token and the keys of `serve` must be nowhere but where they were given."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import hub_faults
import hub_server
import served

import ggufkit
from soak import Row, Trial

_TOKEN, _KEY = "hf_neverToBeSeen0123456789", "key-never-to-be-seen-0123456789"
_LARGE = 1 << 20  # weights, which nobody writes a secret into
_DEMO = Path(ggufkit.__file__).parent / "demo_model"


class _Lookout:
    """Reads, as long as it is entered, the command lines of all processes and what lies in some folders."""

    def __init__(self, secret: str, folders: list[Path]) -> None:
        self.found: set[str] = set()
        self._secret, self._folders = secret.encode(), folders
        self._end = threading.Event()

    def look(self) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if self._secret in path.read_bytes():
                    self.found.add(f"a command line: {path.read_bytes()[:200]!r}")
        for folder in self._folders:
            for place, _, names in os.walk(folder):  # which goes on where a folder vanishes meanwhile
                for path in (Path(place, name) for name in names):
                    with contextlib.suppress(OSError):
                        if path.is_file() and path.stat().st_size < _LARGE and self._secret in path.read_bytes():
                            self.found.add(f"the file {path}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        def work() -> None:
            while not self._end.wait(0.25):
                self.look()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()
            self.look()


def _run(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-c", "from ggufkit.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def _pull(folder: Path, trial: Trial, case: int) -> None:
    """Well, from a repository that is closed, one that is not there, one that fails: with all that can be printed."""
    root, home = folder / "root", folder / "home"
    shutil.copytree(_DEMO, root / "someone" / "demo")
    (root / "someone" / "gated").mkdir()
    home.mkdir()
    lookout = _Lookout(_TOKEN, [home])
    with hub_server.serving(root, gated={"someone/gated"}) as hub, lookout.watching():
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": _TOKEN, "TMPDIR": str(home)}
        environment |= {"XDG_DATA_HOME": str(home / "data"), "GGUFKIT_DEBUG": "1", "HF_DEBUG": "1"}
        said = [_run(["pull", name], home, environment) for name in ("someone/demo", "someone/gated", "no/such")]
        shutil.rmtree(home / "hub", ignore_errors=True)
        hub.faults.append(hub_server.Fault("GET", hub_faults.status(403)))
        said.append(_run(["pull", "someone/demo"], home, environment))
        if _TOKEN not in "".join(map(str, hub.tokens["hub"])):
            trial.broken(case, "the token was not used at all")
        if any(_TOKEN in str(token) for token in hub.tokens["content"]):
            trial.broken(case, "the token was sent to another host")
    for text in said:
        if _TOKEN in text:
            trial.broken(case, "the token was printed")
    for where in lookout.found:
        trial.broken(case, f"the token is in {where}")
    trial.add("outputs read", len(said))


def _serve(folder: Path, trial: Trial, case: int) -> None:
    """By a variable or a file, with right and wrong keys, and with its log."""
    model = folder / "demo.gguf"
    ggufkit.convert(_DEMO, model)
    (folder / "key").write_text(_KEY)
    temporary = folder / "temporary"
    temporary.mkdir()
    lookout = _Lookout(_KEY, [temporary])
    by_file = case % 2 == 0
    arguments = ["--api-key-file", folder / "key"] if by_file else []
    environment = {"TMPDIR": str(temporary), "GGUFKIT_DEBUG": "1"} | ({} if by_file else {"GGUFKIT_API_KEY": _KEY})
    statuses = []
    with (
        lookout.watching(),
        served.running("serve", model, "--port", "0", "-v", *arguments, environment=environment) as server,
    ):
        for key in (_KEY, f"{_KEY}x", ""):
            head = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            request = urllib.request.Request(
                f"{server.where}/v1/completions", b'{"prompt": "1", "max_tokens": 1}', head
            )
            try:
                with urllib.request.urlopen(request, timeout=served.PATIENCE) as answer:
                    statuses.append(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    statuses.append(error.code)
                    if _KEY in error.read().decode("utf-8", "replace"):
                        trial.broken(case, "the key is in an answer")
        for child in server.children():
            if _KEY.encode() in Path(f"/proc/{child}/environ").read_bytes():
                trial.broken(case, "the key is in the surroundings of llama-server")
        server.end()
        said = "\n".join(server.lines)
    if statuses != [200, 401, 401]:
        trial.broken(case, f"answers {statuses}, not 200, 401, 401")
    if _KEY in said:
        trial.broken(case, "the key was printed")
    for where in lookout.found:
        trial.broken(case, f"the key is in {where}")
    trial.add("lines of log read", len(server.lines))


def secrets(trial: Trial) -> None:
    for case in trial.cases():
        folder = trial.folder / str(case)
        folder.mkdir()
        (_pull, _serve, _serve)[case % 3](folder, trial, case)


ROWS = [
    Row(
        "leaks",
        "the hub's token and serve's key in logs, errors, `ps`, temporary files",
        "0",
        secrets,
        count=3,
        quick=3,
        engine=True,
    )
]
