"""A stand-in for the model hub: a real HTTP server with the part of the hub's API that downloading uses.

    HEAD or GET /{owner}/{name}/resolve/{revision}/{file}

Small files are served in place; large ones, as on the real hub, by a redirect to a store that knows them by their hash,
answers Range requests, and wants no token. Every request is written down, so that tests can say what was asked for.
It can be told to be unkind: to want a token, to gate a repo, to cut a connection, to hide a file's length.

huggingface_hub reads its settings when it is imported, so tests load models in a process of their own: `Hub.load`.
"""

import contextlib
import hashlib
import json
import os
import re
import resource
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from forked import context

LARGE = 100_000  # bytes from which a file lives in the store

Files = Mapping[str, bytes]


@dataclass
class Repo:
    """Files of every commit, newest last; tags are names for commits, "main" is the newest."""

    commits: dict[str, Files] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def push(self, files: Files, tag: str | None = None) -> str:
        content = sorted((name, etag(content)) for name, content in files.items())
        commit = hashlib.sha1(repr((list(self.commits), content)).encode()).hexdigest()
        self.commits[commit] = files
        if tag is not None:
            self.tags[tag] = commit
        return commit

    def commit(self, revision: str) -> str | None:
        if revision == "main":
            return list(self.commits)[-1]
        return self.tags.get(revision, revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    """One request and how many bytes of body its answer carried."""

    method: str
    path: str
    range: str | None
    token: str | None
    sent: int


@dataclass
class Hub:
    """The server. `cut`: file hash -> bytes after which the first answer with it breaks off.

    `deaf`: how many requests are hung up on first.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    hide_length: bool = False
    deaf: int = 0
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    store: str = ""

    def push(self, repo: str, files: Files, tag: str | None = None) -> str:
        return self.repos.setdefault(repo, Repo()).push(files, tag)

    def asked(self) -> list[str]:
        """The repo and file of every request to the hub itself, each once."""
        found = [re.fullmatch(r"/(\w[^/]*/[^/]+)/resolve/[^/]+/(.+)", request.path) for request in self.requests]
        return list(dict.fromkeys(f"{match[1]}/{match[2]}" for match in found if match))

    def served(self) -> list[str]:
        """Of those, the files whose content was sent, by the hub or its store."""
        paths = {request.path for request in self.requests if request.sent}
        return [name for name in self.asked() if not paths.isdisjoint(self._paths(name))]

    def _paths(self, name: str) -> set[str]:
        """Every path that a file, in any of its versions, can be had at."""
        owner, repo, file = name.split("/", 2)
        versions = self.repos.get(f"{owner}/{repo}", Repo())
        stored = {f"/store/{etag(files[file])}" for files in versions.commits.values() if file in files}
        revisions = ["main", *versions.tags, *versions.commits]
        return stored | {f"/{owner}/{repo}/resolve/{revision}/{file}" for revision in revisions}

    def load(self, *jobs: Mapping[str, Any], home: Path, file_limit: int = 0, **environment: str) -> "Loaded":
        """Loads every job (a model and LoadOptions' fields) in one new process that knows only this hub."""
        return load(*jobs, home=home, file_limit=file_limit, HF_ENDPOINT=self.endpoint, **environment)


@dataclass(frozen=True)
class Loaded:
    """What came of the jobs: for each a dict with either `error` and `kind`, or `notes`, `sum` and `stages`."""

    jobs: list[dict[str, Any]]

    @property
    def error(self) -> str:
        assert list(self.jobs[-1]) == ["error", "kind"], self.jobs[-1]
        error: str = self.jobs[-1]["error"]
        return error


def load(*jobs: Mapping[str, Any], home: Path, file_limit: int = 0, **environment: str) -> "Loaded":
    """Runs the jobs in a process with a clean hub environment; all it says is its answers."""
    environment = {"HF_HOME": str(home), "NO_PROXY": "*", **environment}
    return Loaded(json.loads(forked(_run, jobs, environment, file_limit)))


def forked(target: Callable[..., None], *arguments: Any) -> str:
    """Runs a function in a process of its own; what that says on stdout.

    It is forked off a server that has imported torch, which takes most of the time, but not huggingface_hub.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = context().Process(target=_redirected, args=(folder, target, arguments))
        process.start()
        process.join(timeout=120)
        process.kill()
        stdout, stderr = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 0, stderr
    return stdout


def _redirected(folder: str, target: Callable[..., None], arguments: Sequence[Any]) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY), descriptor)
    target(*arguments)


def _run(jobs: Sequence[Mapping[str, Any]], environment: Mapping[str, str], file_limit: int) -> None:
    assert "huggingface_hub" not in sys.modules, "it has read the environment of the tests"
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        del os.environ[name]
    os.environ.update(environment)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    print(json.dumps([_try(job) for job in jobs]))


def _try(job: Mapping[str, Any]) -> dict[str, Any]:
    from dia2.checkpoint.load import LoadOptions, load_checkpoint
    from dia2.errors import Dia2Error

    stages: dict[str, list[int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        stages[stage] = [done, total]

    try:
        options = {name: value for name, value in job.items() if name != "model"}
        loaded = load_checkpoint(job["model"], LoadOptions(**{"device": "cpu", "progress": progress} | options))
    except Dia2Error as error:
        return {"error": str(error), "kind": type(error).__name__}
    total = sum(w.double().sum().item() for m in (loaded.backbone, loaded.depformer) for w in m.parameters())
    return {"notes": loaded.notes, "sum": total, "stages": stages}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A running stand-in with nothing on it."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        server.daemon_threads = True
        port = server.server_address[1]
        hub.endpoint, hub.store = f"http://127.0.0.1:{port}", f"http://localhost:{port}/store"  # another host
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def folder(path: Path, **replaced: bytes | None) -> dict[str, bytes]:
    """The files under a path as a commit; `replaced` (dots written as __) changes some, or leaves them out."""
    files = {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    for name, content in replaced.items():
        files.pop(name.replace("__", "."), None)
        if content is not None:
            files[name.replace("__", ".")] = content
    return files


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            if hub.deaf > 0:
                hub.deaf -= 1
                self.close_connection = True
            elif match := re.fullmatch(r"/store/(\w+)", self.path):
                stored = (c for repo in hub.repos.values() for files in repo.commits.values() for c in files.values())
                self._serve(next(content for content in stored if etag(content) == match[1]), {})
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                self._resolve(*match.groups())
            else:
                self._refuse(404, "NotFound")

        def _resolve(self, name: str, revision: str, file: str) -> None:
            repo = hub.repos.get(name)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            if repo is None or (repo.token is not None and token is None):
                self._refuse(401, "RepoNotFound")  # the hub does not tell strangers what exists
            elif repo.gated:
                self._refuse(403, "GatedRepo")
            elif repo.token not in (None, token):
                self._refuse(403, None)
            elif (commit := repo.commit(revision)) is None:
                self._refuse(404, "RevisionNotFound")
            elif file not in repo.commits[commit]:
                self._refuse(404, "EntryNotFound", commit)
            else:
                self._found(repo.commits[commit][file], commit)

        def _found(self, content: bytes, commit: str) -> None:
            headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit}
            if len(content) < LARGE:
                self._serve(content, headers)
                return
            headers |= {"X-Linked-ETag": f'"{etag(content)}"', "Location": f"{hub.store}/{etag(content)}"}
            if not hub.hide_length:
                headers["X-Linked-Size"] = str(len(content))
            self._reply(302, headers, b"")

        def _refuse(self, status: int, code: str | None, commit: str | None = None) -> None:
            headers = {"X-Error-Code": code, "X-Repo-Commit": commit}
            self._reply(status, {name: value for name, value in headers.items() if value}, b"")

        def _serve(self, content: bytes, headers: dict[str, str]) -> None:
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if start is None:
                self._reply(200, headers, content)
                return
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._reply(206, headers, content[first:])

        def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            hidden = hub.hide_length and len(body) >= LARGE
            if hidden:
                self.send_header("Connection", "close")  # then the end of the connection is the end of the body
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = hub.cut.pop(etag(body), None) if self.command == "GET" else None
            sent = b"" if self.command == "HEAD" else body[:cut]
            wanted = (self.headers.get("Range"), self.headers.get("Authorization"))
            hub.requests.append(Request(self.command, self.path, *wanted, len(sent)))
            with contextlib.suppress(ConnectionError):  # a full disk at the other end
                self.wfile.write(sent)
            if hidden or cut is not None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Not on the tests' stderr."""

    return Handler
