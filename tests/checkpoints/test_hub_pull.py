"""Fetching from a hub that misbehaves: what comes to stand under a name is right, or nothing does."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import hub_faults
import hub_server
import pytest
from hub_faults import Act
from hub_server import COMMIT, Fault, Hub

from ggufkit.checkpoints import hub, hub_cache, hub_http, hub_pull, hub_transfer
from ggufkit.checkpoints.hub_pull import Kind, PullOptions, find_cached, plan_pull, pull, pull_model
from ggufkit.errors import GgufkitError, HubError, OutputError, UnsafeError, UsageError
from ggufkit.quantization.names import output_path
from ggufkit.quantization.types import quantization_type

pytestmark = [pytest.mark.fault]

TOKEN = "hf_a_secret"
LARGE = 3 << 20
NAME = "someone/model-GGUF"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    repository = folder / NAME
    repository.mkdir(parents=True)
    (repository / "model-Q8_0.gguf").write_bytes(os.urandom(LARGE))
    (repository / "README.md").write_bytes(b"# A model\n")
    return folder


@pytest.fixture
def served(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, with huggingface_hub told of it, and no time lost by waiting."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(hub_transfer, "_FIRST_WAIT", 0.001)
    with hub_server.serving(root) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running
        assert running.tokens["content"] <= {None}, "the token went to another host"


def fetched(text: str = f"{NAME}:Q8_0", **options: object) -> Path:
    name = hub.model_name(text)
    wanted = PullOptions(**options)
    return pull(plan_pull(name, wanted), wanted).path


def is_whole(path: Path, root: Path) -> bool:
    original = root / NAME / path.name
    return hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(original.read_bytes()).digest()


def final_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


ENDS_RIGHT: dict[str, tuple[Act, int]] = {
    "cut short": (hub_faults.cut_short, 1),
    "cut short again and again": (hub_faults.cut_short, 4),
    "half announced as all": (hub_faults.announced_short, 2),
    "wrong bytes after a part": (hub_faults.wrong_range, 1),
    "busy": (hub_faults.status(429, Retry_After="0"), 3),
    "down": (hub_faults.status(503), 3),
    "no such range": (hub_faults.status(416), 1),
    "hangs up": (hub_faults.hang_up, 3),
    "signature out of date": (hub_faults.status(403), 1),
    "drip": (hub_faults.drip, 1),
    "compressed": (hub_faults.packed, 9),
    "a wait that is no number": (hub_faults.status(429, Retry_After="\xb2"), 1),
}


@pytest.mark.parametrize("case", ENDS_RIGHT)
def test_ends_right(served: Hub, root: Path, case: str) -> None:
    act, times = ENDS_RIGHT[case]
    served.faults.append(Fault(r"^content GET .*gguf", act, times))
    path = fetched()
    assert is_whole(path, root)
    assert path.parent.name == COMMIT


REFUSED: dict[str, tuple[Act, str]] = {
    "wrong bytes of the right size": (hub_faults.wrong_bytes, "hash"),
    "always half": (hub_faults.announced_short, "it ended after"),
    "too long": (hub_faults.too_long, "longer than"),
    "a web page": (hub_faults.web_page, "it ended after"),
    "always busy": (hub_faults.status(429, Retry_After="0"), "429"),
    "busy for an hour": (hub_faults.status(429, Retry_After="3600"), "429"),
    "always down": (hub_faults.status(503), "503"),
    "never that range": (hub_faults.status(416), "416"),
    "always hangs up": (hub_faults.hang_up, "connection broke"),
    "gone": (hub_faults.status(404), "404"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("where", ["cache", "folder"])
def test_refused_with_nothing_under_a_final_name(served: Hub, tmp_path: Path, case: str, where: str) -> None:
    act, message = REFUSED[case]
    served.faults.append(Fault(r"^content GET .*gguf", act))
    folder = tmp_path / "local" if where == "folder" else None
    with pytest.raises(HubError, match=message) as caught:
        fetched(local_folder=folder)
    assert TOKEN not in str(caught.value)
    assert final_files(folder or tmp_path / "cache") == []
    served.faults.clear()
    assert is_whole(fetched(local_folder=folder), served.root)  # nothing that is left stands in the way


def test_a_part_is_gone_on_with(served: Hub, root: Path) -> None:
    served.faults.append(Fault(r"^content GET .*gguf", hub_faults.cut_short, 1))
    served.faults.append(Fault(r"^content GET .*gguf", hub_faults.status(404), 1))
    with pytest.raises(HubError):
        fetched()
    served.faults.clear()
    before = served.sent
    assert is_whole(fetched(), root)
    assert served.sent - before < LARGE * 0.6


def test_a_damaged_part_is_not_kept(served: Hub, root: Path, tmp_path: Path) -> None:
    """What lies there from an earlier run may be anything: only the hash of the whole counts."""
    plan = plan_pull(hub.model_name(f"{NAME}:Q8_0"))
    target = hub_cache.cached_repository(plan.listing.repository).blob(plan.files[0].sha256)
    part = hub_transfer.part_path(target, plan.files[0].sha256)
    part.parent.mkdir(parents=True)
    for content in (b"x" * 100_000, b"x" * LARGE, b"x" * (LARGE + 1)):
        part.write_bytes(content)
        path = fetched()
        assert is_whole(path, root)
        path.resolve().unlink()


def test_what_is_too_large_for_plain_http(served: Hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library fetches it, which knows the newer protocol; here it speaks HTTP as well. The rest is the same."""
    monkeypatch.setattr(hub_transfer, "_LARGEST_BY_HTTP", LARGE - 1)
    served.faults.append(Fault(r"^content GET .*gguf", hub_faults.wrong_bytes, 1))
    with pytest.raises(HubError, match="hash"):
        fetched()
    assert is_whole(fetched(), root)
    assert sorted(path.suffix for path in served.root.parent.joinpath("cache").rglob(".*")) == []


def test_a_server_that_sends_no_ranges(root: Path, served: Hub) -> None:
    served.ranges = False
    served.faults.append(Fault(r"^content GET .*gguf", hub_faults.cut_short, 2))
    assert is_whole(fetched(), root)


def test_what_is_here_is_verified(served: Hub, root: Path) -> None:
    path = fetched()
    sent = served.sent
    assert fetched() == path
    assert served.sent - sent < 10_000, "it was fetched again"
    with path.resolve().open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    assert not is_whole(path, root)
    assert fetched() == path
    assert is_whole(path, root)


def test_the_token_stays_with_the_endpoint(served: Hub, root: Path) -> None:
    with hub_server.serving(root) as other:
        for pattern, server in (
            (r"^hub GET .*/resolve/", other.api),
            (r"^hub GET /api/models", other.api),
            (r"^content GET", other.content),
        ):
            served.faults = [Fault(pattern, hub_faults.redirect(f"http://localhost:{server.server_port}"), 1)]
            path = fetched()
            assert is_whole(path, root)
            path.resolve().unlink()
        assert other.requests
        assert other.tokens == {"hub": {None}, "content": {None}}
    assert f"Bearer {TOKEN}" in served.tokens["hub"]


def test_no_way_from_https_to_http() -> None:
    """The endpoint of this test cannot be https, so the rule is asked for by itself."""
    assert hub_http.is_allowed("https://cdn.example/x", home="https://hub.example/y")
    assert hub_http.is_allowed("http://cdn.example/x", home="http://127.0.0.1/y")
    assert not hub_http.is_allowed("http://cdn.example/x", home="https://hub.example/y")
    assert not hub_http.is_allowed("file:///etc/passwd", home="http://127.0.0.1/y")


@pytest.mark.parametrize(
    "act", [hub_faults.status(503), hub_faults.status(429, Retry_After="0"), hub_faults.status(500)]
)
def test_a_busy_api(served: Hub, root: Path, act: Act) -> None:
    served.faults.append(Fault(r"^hub GET /api/models", act, 3))
    assert is_whole(fetched(), root)
    served.faults.append(Fault(r"^hub GET /api/models", act))
    with pytest.raises(HubError, match="answered"):
        fetched()


def test_an_api_that_is_none(served: Hub) -> None:
    served.faults.append(Fault(r"^hub GET /api/models", hub_faults.web_page))
    with pytest.raises(HubError, match="not one that a hub gives"):
        fetched()


@pytest.mark.parametrize("name", ["../outside", "/etc/evil", "a/../../b", "C:\\x", "a\\b", "a\nb"])
def test_names_that_leave_the_repository(served: Hub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(hub_server, "sibling", lambda *_: {"rfilename": name, "size": 1})
    with pytest.raises(UnsafeError):
        fetched()


def test_a_folder_that_is_a_link_out(served: Hub, root: Path, tmp_path: Path) -> None:
    (root / NAME / "sub").mkdir()
    (root / NAME / "sub" / "x.gguf").write_bytes(b"x")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "sub").symlink_to(tmp_path)
    with pytest.raises(UnsafeError, match="outside"):
        fetched(NAME, include=("sub/*",), local_folder=tmp_path / "local")


def test_the_disk_is_looked_at_first(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(LARGE, LARGE, LARGE - 1))
    with pytest.raises(OutputError, match="not enough space"):
        fetched()
    assert not any("gguf" in request for request in served.requests if "resolve" in request)


def test_the_hash_comes_from_the_headers_where_the_listing_has_none(
    served: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_server, "sibling", lambda folder, path: {"rfilename": str(path.relative_to(folder))})
    served.faults.append(Fault(r"^content GET .*gguf", hub_faults.wrong_bytes, 1))
    with pytest.raises(HubError, match="hash"):
        fetched()
    assert is_whole(fetched(), root)


@pytest.mark.parametrize("etag", ['W/"a-name"', '"quoted"', ""])
def test_a_redirect_that_says_nothing_of_the_file(
    served: Hub, root: Path, monkeypatch: pytest.MonkeyPatch, etag: str
) -> None:
    """Its own length, 0, is not taken for that of the file, which would make an empty file a whole one."""
    monkeypatch.setattr(hub_server, "sibling", lambda folder, path: {"rfilename": str(path.relative_to(folder))})

    def bare(handler: hub_server._Handler, _: Path | None) -> None:
        location = f"http://localhost:{served.content.server_port}/{NAME}/model-Q8_0.gguf"
        handler.send(302, b"", {"X-Repo-Commit": COMMIT, "ETag": etag, "Location": location}, body=False)

    served.faults.append(Fault(r"^hub HEAD .*gguf", bare))
    pulled = pull(plan_pull(hub.model_name(f"{NAME}:Q8_0")))
    assert is_whole(pulled.path, root)
    assert pulled.without_hash == ("model-Q8_0.gguf",), "nobody may be told that it was verified"


def test_a_part_goes_when_the_rest_comes_compressed(served: Hub, root: Path) -> None:
    served.faults += [Fault("^content GET", hub_faults.cut_short, 1), Fault("^content GET", hub_faults.packed)]
    assert is_whole(fetched(), root)


@pytest.mark.parametrize("location", ["http://[", "http://h:999999/x", "http://h\x01/x", "http://a b/x", "//"])
def test_a_redirect_to_what_is_no_address(served: Hub, tmp_path: Path, location: str) -> None:
    served.faults.append(Fault("^hub GET .*gguf", hub_faults.redirect_to(location)))
    with pytest.raises((HubError, UnsafeError), match="redirected"):
        fetched()
    assert final_files(tmp_path / "cache") == []


@pytest.mark.parametrize("revision", ["../../../outside", "/outside"])
def test_revisions_that_leave_the_cache(served: Hub, tmp_path: Path, revision: str) -> None:
    served.faults.append(Fault("^hub GET /api", lambda handler, _: handler.route(body=True)))
    with pytest.raises(HubError, match="no revision"):
        fetched(f"{NAME}:Q8_0@{revision}")
    assert find_cached(hub.model_name(f"{NAME}@{revision}")) is None
    assert not (tmp_path / "outside").exists()


def test_two_at_once(served: Hub, root: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    environment = {**os.environ, "HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "ggufkit", "pull", f"{NAME}:q8_0"]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(answers)) == 1
    assert served.sent < 1.5 * LARGE, "one fetched it, the others waited"
    assert is_whole(Path(answers[0]), root)
    assert list((tmp_path / "home").rglob("*.ggufkit-pull")) == []


def test_what_is_in_the_cache_needs_nobody(served: Hub) -> None:
    name = hub.model_name(f"{NAME}:q8_0")
    assert find_cached(name) is None
    path = pull_model(f"{NAME}:q8_0")
    asked = len(served.requests)
    assert hub_cache.repository_of(path) == NAME
    assert output_path(path, quantization_type("Q4_K_M")) == Path("model-Q4_K_M.gguf"), "nothing goes into the cache"
    assert find_cached(name) == path
    assert pull_model(f"{NAME}:Q8_0", Kind.GGUF) == path
    with pytest.raises(HubError, match="no name of a model"):
        pull_model("model.gguf")
    assert find_cached(hub.model_name(f"{NAME}@{COMMIT}"), Kind.GGUF) == path
    assert find_cached(hub.model_name(f"{NAME}:Q4_K_M")) is None
    assert find_cached(hub.model_name(NAME), Kind.CHECKPOINT) is None
    assert len(served.requests) == asked
    path.resolve().unlink()
    assert find_cached(name) is None


def test_the_cache_is_huggingface_hubs_own(served: Hub, tmp_path: Path) -> None:
    """It finds what we put there, without complaint, and we find what it puts there."""
    from huggingface_hub import hf_hub_download, scan_cache_dir

    path = fetched()
    cache = tmp_path / "cache"
    scanned = scan_cache_dir(cache)
    assert not scanned.warnings
    (found,) = scanned.repos
    assert (found.repo_id, found.size_on_disk, set(found.refs)) == (NAME, LARGE, {"main"})
    theirs = hf_hub_download(NAME, path.name, cache_dir=cache)
    assert theirs == str(path)
    path.resolve().unlink()
    path.unlink()
    theirs = hf_hub_download(NAME, path.name, cache_dir=cache)
    sent = served.sent
    assert str(fetched()) == theirs
    assert served.sent - sent < 10_000, "what it has fetched is good for us"


def test_errors_are_told_apart(served: Hub, root: Path) -> None:
    served.gated = {"someone/gated"}
    (root / "someone" / "gated").mkdir()
    for text, message in (
        ("someone/gated", "gated"),
        ("someone/missing", "no repository"),
        (f"{NAME}@other", "no revision"),
        (f"{NAME}:Q2_K", r"no quantization 'Q2_K': Q8_0 \(3\.1 MB\)"),
    ):
        with pytest.raises(HubError, match=message) as caught:
            fetched(text)
        assert caught.value.hint
    with pytest.raises(UsageError, match="leave no file"):
        fetched(NAME, include=("nothing*",))
    assert issubclass(HubError, GgufkitError)
    assert hub_pull.PullOptions().kind is Kind.ANY
