"""The open tier: a file is the listed one or there is a clear error, and never half a file."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from monitorlab.storage import sources
from monitorlab.storage.sources import SourceError, available, fetch, load_sources

GOOD = b"id,text\n1,\"a\nb\"\n" * 50
KEY = "demo/table.csv"
SHA = hashlib.sha256(GOOD).hexdigest()


class Server(ThreadingHTTPServer):
    """A server on loopback that answers as its `mode` says."""

    mode = "good"
    calls = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.calls += 1
        if self.server.mode == "missing":
            self.send_error(404)
            return
        body = b"<html>log in first</html>" if self.server.mode == "wrong" else GOOD
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        truncated = self.server.mode == "truncated" or (
            self.server.mode == "once" and self.server.calls == 1)
        self.wfile.write(body[: len(body) // 2] if truncated else body)

    def log_message(self, *_: object) -> None:
        """Keep test output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def project(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with one source that lives on the loopback server."""
    text = f'''["{KEY}"]
url = "http://127.0.0.1:{server.server_port}/table.csv"
sha256 = "{SHA}"
bytes = {len(GOOD)}
license = "MIT"
repo = "demo/demo"
commit = "0"
holds = "50 rows"

["demo/filled-only.csv"]
sha256 = "{SHA}"
bytes = {len(GOOD)}
license = "MIT"
repo = "demo/demo"
commit = "0"
holds = "50 rows"
'''
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "data" / "sources.toml").write_text(text)
    monkeypatch.setenv("MONITORLAB_ROOT", str(root))
    monkeypatch.delenv("MONITORLAB_CACHE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return root


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def own_copy(project: Path, content: bytes) -> Path:
    path = project / "data" / "cache" / "open" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_download_is_verified_kept_and_not_repeated(
    project: Path, server: Server
) -> None:
    assert not available(KEY)
    path = fetch(KEY)
    assert path == project / "data" / "cache" / "open" / KEY and path.read_bytes() == GOOD
    assert available(KEY) and fetch(KEY) == path and server.calls == 1


def test_a_download_logs_nothing_and_restores_the_log_level(project: Path) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger = pooch.get_logger()
    before = logger.level
    logger.addHandler(handler)
    try:
        fetch(KEY)
    finally:
        logger.removeHandler(handler)
    assert records == [], "pooch's log would end up on the stderr of an executed notebook"
    assert logger.level == before


@pytest.mark.parametrize(("mode", "words"), [
    ("wrong", "it sent something else: found sha256 .* and 25 bytes, expected .*truncated"),
    ("truncated", "could not download"),
    ("missing", "404"),
])
def test_a_bad_download_is_an_error_and_leaves_nothing(
    project: Path, server: Server, mode: str, words: str
) -> None:
    server.mode = mode
    with pytest.raises(SourceError, match=words) as caught:
        fetch(KEY)
    message = str(caught.value)
    assert KEY in message and "127.0.0.1" in message
    assert "set MONITORLAB_CACHE" in message and "python -m monitorlab fetch" in message
    assert files(project) == ["data/sources.toml"]
    assert server.calls == 2, "one retry, no more"


def test_a_truncation_without_a_length_is_caught_by_the_hash(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        def __init__(self, **_: object) -> None: ...

        def __call__(self, _: str, output: str, __: object) -> None:
            Path(output).write_bytes(GOOD[:100])

    monkeypatch.setattr("pooch.HTTPDownloader", Half)
    with pytest.raises(SourceError, match=r"100 bytes, expected .* \(it looks truncated\)"):
        fetch(KEY)
    assert files(project) == ["data/sources.toml"]


def test_one_retry_mends_a_broken_connection(project: Path, server: Server) -> None:
    server.mode = "once"
    assert fetch(KEY).read_bytes() == GOOD and server.calls == 2


def test_no_network_is_said_quickly(project: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(SourceError, match="could not download .*Connection"):
        fetch(KEY)
    assert files(project) == ["data/sources.toml"]


def test_a_process_killed_while_downloading_leaves_no_file_under_the_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed:
        def __init__(self, **_: object) -> None: ...

        def __call__(self, _: str, output: str, __: object) -> None:
            Path(output).write_bytes(GOOD[:10])
            raise KeyboardInterrupt

    monkeypatch.setattr("pooch.HTTPDownloader", Killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(KEY)
    assert not available(KEY)


def test_a_changed_copy_is_reported_and_left_alone(project: Path, server: Server) -> None:
    path = own_copy(project, GOOD + b"x")
    with pytest.raises(SourceError) as caught:
        fetch(KEY)
    message = str(caught.value)
    changed = hashlib.sha256(GOOD + b"x").hexdigest()
    assert str(path) in message and SHA in message and changed in message
    assert "truncated" not in message and "Delete or replace it" in message
    assert path.read_bytes() == GOOD + b"x" and server.calls == 0


def test_a_truncated_copy_is_called_truncated(project: Path) -> None:
    own_copy(project, GOOD[:-10])
    with pytest.raises(SourceError, match=f"{len(GOOD) - 10} bytes, .*looks truncated"):
        fetch(KEY)


def test_a_filled_cache_comes_first_and_is_not_written_to(
    project: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = tmp_path / "filled"
    (filled / "demo").mkdir(parents=True)
    (filled / KEY).write_bytes(GOOD)
    (filled / "demo").chmod(0o555)
    monkeypatch.setenv("MONITORLAB_CACHE", str(filled))
    own_copy(project, GOOD)
    assert available(KEY) and fetch(KEY) == filled / KEY
    assert server.calls == 0 and files(filled) == [KEY]


def test_a_wrong_file_in_the_filled_cache_is_an_error_not_a_download(
    project: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filled" / "demo").mkdir(parents=True)
    (tmp_path / "filled" / KEY).write_bytes(b"else")
    monkeypatch.setenv("MONITORLAB_CACHE", str(tmp_path / "filled"))
    with pytest.raises(SourceError, match="is not the listed file"):
        fetch(KEY)
    assert server.calls == 0 and (tmp_path / "filled" / KEY).read_bytes() == b"else"


def test_what_the_filled_cache_lacks_is_downloaded_to_the_own_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filled").mkdir()
    monkeypatch.setenv("MONITORLAB_CACHE", str(tmp_path / "filled"))
    assert fetch(KEY).is_relative_to(project) and files(tmp_path / "filled") == []


def test_a_cache_variable_that_names_no_folder_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONITORLAB_CACHE", str(project / "nowhere"))
    with pytest.raises(SourceError, match="MONITORLAB_CACHE names .*nowhere, which is not"):
        fetch(KEY)


def test_an_unknown_key_names_the_close_ones(project: Path) -> None:
    with pytest.raises(SourceError, match="unknown source 'demo/table.cvs': did you mean demo/tab"):
        fetch("demo/table.cvs")
    with pytest.raises(SourceError, match=r"see data/sources\.toml"):
        available("zzzzzz")


def test_a_file_without_address_says_so(project: Path) -> None:
    with pytest.raises(SourceError, match=r"has no address.*Set MONITORLAB_CACHE"):
        fetch("demo/filled-only.csv")


@pytest.mark.parametrize(("old", "new", "message"), [
    ('commit = "0"', "commit = 1234567", "demo/table.csv: commit is 1234567, expected str"),
    ('commit = "0"', "commit = 2026-01-02", "commit is datetime.date.*, expected str"),
    ("bytes = ", "bytes = 0.5 # ", "bytes is 0.5, expected int"),
    ("bytes = ", "bytes = true # ", "bytes is True, expected int"),
    ("sha256 = ", "sha265 = ", "sha256 is missing, expected str"),
    ("bytes = ", "size = 3\nbytes = ", "size is 3, expected no such field"),
    ('commit = "0"', "commit = 0123", "sources.toml is not TOML"),
])  # fmt: skip
def test_a_field_of_another_type_is_named(
    project: Path, old: str, new: str, message: str
) -> None:
    path = project / "data" / "sources.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    sources._parse.cache_clear()
    with pytest.raises(SourceError, match=message):
        fetch(KEY)


@pytest.mark.parametrize("key", ["../../escaped", "/tmp/escaped"])
def test_a_key_that_leaves_the_cache_is_refused(project: Path, key: str) -> None:
    path = project / "data" / "sources.toml"
    path.write_text(path.read_text().replace("demo/table.csv", key))
    with pytest.raises(SourceError, match="leaves the folder of the cache"):
        fetch(key)


def test_fetch_all_skips_what_has_no_address(project: Path) -> None:
    assert list(sources.fetch_all(progress=False)) == [KEY]


def test_fetch_all_goes_on_after_a_failure_and_then_says_so(
    project: Path, server: Server
) -> None:
    server.mode = "missing"
    with pytest.raises(SourceError, match="0 of 1 files are here"):
        sources.fetch_all(progress=False)


def test_the_real_list_is_complete() -> None:
    known = load_sources()
    assert len(known) == 115 and "evaluator/math.csv.gz" in known
    for key, source in known.items():
        assert len(source.sha256) == 64 and source.bytes > 0 and source.license, key
        assert len(source.commit) == 40 and source.holds and not source.holds.endswith("."), key
        assert not source.url or source.commit in source.url, f"{key}: address is not pinned"


def test_the_readme_shows_the_real_list() -> None:
    lines = ["| key | holds | from | licence | bytes |", "|---|---|---|---|---:|"]
    for source in load_sources().values():
        origin = f"[{source.repo}](https://github.com/{source.repo}/tree/{source.commit})"
        lines.append(f"| `{source.key}` | {source.holds} | {origin} | {source.license} | "
                     f"{source.bytes:,} |")
    readme = sources.project_root() / "data" / "README.md"
    assert "\n".join(lines) in readme.read_text(encoding="utf-8")
