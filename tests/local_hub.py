"""A Hub on this machine: the few endpoints of the Hugging Face Hub that pushing and pulling a model repository take."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN, OWNER = "hf_writer", "me"  # the one user there is
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Repo:
    """A repository: its commits, each all of its files."""

    def __init__(self, *, private: bool = False, gated: bool = False, files: dict[str, bytes] | None = None):
        self.private, self.gated = private, gated
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.commit({".gitattributes": b"", **(files or {})})

    def commit(self, files: dict[str, bytes]) -> str:
        everything = {**(self.commits[-1][1] if self.commits else {}), **files}
        content = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(everything.items())]
        sha = hashlib.sha1(json.dumps([len(self.commits), content]).encode()).hexdigest()
        self.commits.append((sha, everything))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        return self.commits[-1] if revision == "main" else next(c for c in self.commits if c[0] == revision)


class Hub:
    """What the server knows: repositories, large files, and the status with which it refuses every request if it is set."""

    def __init__(self, url: str):
        self.url, self.repos, self.large = url, {}, {}
        self.refuses: dict[str, int] = {}  # part of a path → status


class Handler(BaseHTTPRequestHandler):
    """The endpoints."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, status: int = 200, body: bytes | dict | list = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    @property
    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        path = self.path.partition("?")[0]
        for part, status in self.hub.refuses.items():
            if part in path:
                return self.refuse(status, "", "refused")
        if self.headers.get("Authorization") and not self.is_known:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        for method, pattern, act in ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                return act(self, body, **match.groupdict())
        self.refuse(404, "", f"no such endpoint: {self.command} {self.path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def found(self, repo: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        """The commit, if the repository is there for who asks; otherwise what the Hub says is sent."""
        there = self.hub.repos.get(repo)
        if there is None or (there.private and not self.is_known):
            status, message = (404, "Repository not found") if self.is_known else (401, "Invalid username or password.")
            return self.refuse(status, "RepoNotFound", message)
        try:
            return there.at(revision)
        except StopIteration:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER or not self.is_known:
            return self.refuse(403 if self.is_known else 401, "", "You don't have the rights to create a model here")
        if repo in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"})
        self.hub.repos[repo] = Repo(private=asked.get("visibility") == "private")
        self.answer(200, {"url": f"{self.hub.url}/{repo}", "id": repo})

    def validate(self, body: bytes) -> None:
        yaml.safe_load(json.loads(body)["content"].split("---")[1])
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        mode = {True: "lfs", False: "regular"}
        files = [
            {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def large(self, body: bytes, repo: str) -> None:
        asked = json.loads(body)["objects"]
        self.answer(200, {"objects": [{**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}} for o in asked]})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self.answer(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if not self.is_known or not repo.startswith(f"{OWNER}/"):
            return self.refuse(403, "", "Forbidden: pass a token that may write")
        lines, files = [json.loads(line) for line in body.splitlines()], {}
        for line in lines[1:]:
            value = line["value"]
            files[value["path"]] = base64.b64decode(value["content"]) if line["key"] == "file" else self.hub.large[value["oid"]]
        sha = self.hub.repos[repo].commit(files)
        self.answer(200, {"commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "success": True})

    def info(self, body: bytes, repo: str, revision: str = "main") -> None:
        if there := self.found(repo, revision):
            sha, files = there
            card = files.get("README.md", b"").decode().split("---\n")
            facts = {"id": repo, "modelId": repo, "sha": sha, "private": self.hub.repos[repo].private}
            facts |= {"siblings": [{"rfilename": name} for name in files]}
            self.answer(200, facts | ({"cardData": yaml.safe_load(card[1])} if len(card) > 2 else {}))

    def tree(self, body: bytes, repo: str, revision: str) -> None:
        if there := self.found(repo, revision):
            hashes = {name: (len(data), hashlib.sha1(data).hexdigest()) for name, data in there[1].items()}
            self.answer(200, [{"type": "file", "path": n, "size": size, "oid": oid} for n, (size, oid) in hashes.items()])

    def resolve(self, body: bytes, repo: str, revision: str, file: str) -> None:
        if not (there := self.found(repo, revision)):
            return None
        if self.hub.repos[repo].gated:
            return self.refuse(403, "GatedRepo", "Access to this model is restricted")
        sha, files = there
        if file not in files:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        self.answer(200, files[file], ETag=f'"{hashlib.sha1(files[file]).hexdigest()}"', X_Repo_Commit=sha)


ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>\w+)", Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>\w+)", Handler.commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.large),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.upload),
    (
        "GET",
        rf"/api/models/{REPO}(/revision/(?P<revision>\w+))?",
        lambda h, b, repo, revision: h.info(b, repo, revision or "main"),
    ),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>\w+)", Handler.tree),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>\w+)/(?P<file>.+)", Handler.resolve),
)


@contextmanager
def serving(port: int = 0, hub: Hub | None = None):
    """A Hub that listens on this port, or on a free one; at the end it is gone."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    hub = hub or Hub(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = type("OwnHandler", (Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
