"""A hub on this machine: the few addresses that huggingface_hub asks for, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx")
"""Endings of the files that are in LFS: listed with their sha256, and served from elsewhere."""

_INFO = re.compile(r"/api/models/(?P<repo>[^/]+(?:/[^/]+)?)/revision/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class Repo:
    """The files of each commit, and where branches and tags are."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    """``main`` and others -> commit."""
    listed: dict[str, Any] = field(default_factory=dict)
    """Further entries of the list of files, and other sizes than the true ones."""

    @property
    def head(self) -> str:
        """The commit that ``main`` is at."""
        return self.revisions["main"]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    start: int | None
    """Where the wanted bytes begin, if a range was asked for."""
    token: str | None
    agent: str


@dataclass
class Fault:
    """What happens to requests with ``where`` in their path. A body ends after ``cut_at`` bytes."""

    where: str
    status: int | None = None
    code: str = ""
    body: bytes | None = None
    cut_at: int | None = None
    times: int = 1_000_000
    stall: threading.Event | None = None
    """Waited for at ``cut_at``, instead of closing the connection."""


class FakeHub:
    """The repositories, the faults, and everything that was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}
        """Old name -> new name: asked for the old one, it redirects."""
        self.faults: list[Fault] = []
        """The first that fits a request and is not used up happens to it."""
        self.asked: list[Asked] = []
        self.released = threading.Event()
        """For faults that stall: set it when the test is through with them."""
        self.started = threading.Event()
        """Set when a body was cut or stalled."""

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Publish ``files`` as a new commit at ``revision``; the commit."""
        digest = hashlib.sha1(revision.encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        entry = self.repos.setdefault(repo, Repo({}, {}))
        entry.commits[commit] = dict(files)
        entry.revisions[revision] = commit
        return commit

    def add_folder(self, repo: str, folder: Path, revision: str = "main") -> str:
        """Publish the files of a folder."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return self.add(repo, files, revision)

    def bodies(self) -> list[str]:
        """The files whose content was asked for, in order, by name."""
        found = [_FILE.fullmatch(asked.path) for asked in self.asked if asked.method == "GET"]
        return [match["file"] for match in found if match]

    def take_fault(self, path: str) -> Fault | None:
        """The fault for a request, as long as it lasts."""
        for fault in self.faults:
            if fault.where in path and fault.times > 0:
                fault.times -= 1
                return fault
        return None


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    start: int | None = None
    """Where the wanted bytes of this request begin."""

    @property
    def hub(self) -> FakeHub:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: what was asked is kept."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        wanted = _RANGE.match(self.headers.get("Range", ""))
        token = self.headers.get("Authorization")
        agent = self.headers.get("User-Agent", "")
        self.start = int(wanted[1]) if wanted else None
        self.hub.asked.append(Asked(self.command, path, self.start, token, agent))
        fault = self.hub.take_fault(path) or Fault(path)
        raw = urlsplit(self.path).path
        if fault.status is not None:
            self._refuse(fault.status, fault.code)
        elif match := self._moved(raw):
            new = self.hub.moved[match["repo"]]
            location = self.path.replace(match["repo"], new, 1)
            self._send(HTTPStatus.TEMPORARY_REDIRECT, b"", {"Location": location})
        elif match := _INFO.fullmatch(raw):
            self._info(match["repo"], unquote(match["revision"]), fault)
        elif match := _FILE.fullmatch(raw):
            self._file(match["repo"], unquote(match["revision"]), unquote(match["file"]), fault)
        elif raw.startswith("/lfs/"):
            _, _, repo, commit, name = raw.split("/", 4)
            self._body(self.hub.repos[unquote(repo)].commits[commit][unquote(name)], {}, fault)
        else:
            self._refuse(404)

    def _moved(self, raw: str) -> re.Match[str] | None:
        match = _INFO.fullmatch(raw) or _FILE.fullmatch(raw)
        return match if match and match["repo"] in self.hub.moved else None

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _commit(self, repo: str, revision: str) -> str | None:
        """The commit meant; None once it has been refused."""
        if repo not in self.hub.repos:
            self._refuse(401, "RepoNotFound")
            return None
        found = self.hub.repos[repo]
        if revision in found.commits:
            return revision
        if revision not in found.revisions:
            self._refuse(404, "RevisionNotFound")
        return found.revisions.get(revision)

    def _info(self, repo: str, revision: str, fault: Fault) -> None:
        if commit := self._commit(repo, revision):
            found = self.hub.repos[repo]
            entries = {
                name: _entry(name, content) for name, content in found.commits[commit].items()
            }
            siblings = [*(entries | found.listed).values()]
            answer = {"id": repo, "sha": commit, "siblings": siblings}
            self._body(json.dumps(answer).encode(), {}, fault)

    def _file(self, repo: str, revision: str, name: str, fault: Fault) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        content = self.hub.repos[repo].commits[commit].get(name)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self._refuse(404, "EntryNotFound")
        elif name.endswith(LARGE):
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
            path = f"lfs/{repo.replace('/', '%2F')}/{commit}/{name}"
            headers["Location"] = f"http://localhost:{urlsplit(self.hub.url).port}/{path}"
            self._send(HTTPStatus.FOUND, b"", headers)
        else:
            headers["ETag"] = f'"{_blob_id(content)}"'
            self._body(content, headers, fault)

    def _body(self, content: bytes, headers: dict[str, str], fault: Fault) -> None:
        content = content if fault.body is None else fault.body
        start = self.start
        if start is None:
            self._send(HTTPStatus.OK, content, headers, fault)
        elif start >= len(content):
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        else:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(HTTPStatus.PARTIAL_CONTENT, content[start:], headers, fault)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut_at = fault.cut_at if fault else None
        self.wfile.write(content[:cut_at])
        if fault is not None and cut_at is not None:
            self.wfile.flush()
            self.hub.started.set()
            if fault.stall is not None:
                fault.stall.wait(30)
            self.close_connection = True


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"rfilename": name, "size": len(content), "blobId": _blob_id(content)}
    if not name.endswith(LARGE):
        return entry
    sha256 = hashlib.sha256(content).hexdigest()
    return {**entry, "lfs": {"sha256": sha256, "size": len(content), "pointerSize": 130}}


def _blob_id(content: bytes) -> str:
    """The name that git gives to these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
