"""Pushing and loading through the real hub client, against a hub of one process' memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from rich.console import Console

from distill.cli.bundle import run_push
from students import Student, StudentSpec, TextSpec, build_student, load_student, push_to_hub
from teachers.tokenizers import WordTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as one commit and one download need."""

    files: dict[str, bytes]
    parts: dict[str, bytes]
    asked: list[str]

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        self.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            return self._send({"url": f"{self._home()}/someone/cat-clip"})
        if path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            return self._send({"files": modes})
        if path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files[entry["value"]["path"]] = content
            home = f"{self._home()}/someone/cat-clip/commit/{COMMIT}"
            return self._send({"commitUrl": home, "commitOid": COMMIT, "success": True})
        return self._send({"error": "no such address"}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"GET {path}")
        if path.startswith("/api/models/someone/cat-clip/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            return self._send({"id": "someone/cat-clip", "sha": COMMIT, "siblings": siblings})
        if path.startswith("/api/models/someone/cat-clip/tree/"):
            rows = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in self.files.items()
            ]
            return self._send(rows)
        name = path.removeprefix(f"/someone/cat-clip/resolve/{COMMIT}/")
        if name in self.files:
            return self._file(self.files[name])
        return self._send({"error": "not found"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _home(self) -> str:
        return f"http://{self.headers['Host']}"

    def _file(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _send(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    kind = type("OneHub", (Hub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # What HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN set when the client is first imported.
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "not-a-real-one")
    yield kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    text = TextSpec(width=8, layers=1, heads=1, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=8, image_size=32)
    return build_student(spec, tokenizer=WordTokenizer.fit(["a red cat"], context_length=8)).eval()


@pytest.fixture
def folder(student: Student, tmp_path: Path) -> Path:
    student.save(tmp_path / "student")
    return tmp_path / "student"


def test_a_dry_run_asks_the_hub_nothing(hub: type[Hub], folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "100").touch()
    (folder / ".hidden").touch()
    report = push_to_hub(folder, "someone/cat-clip")
    assert set(report.files) == {"README.md", "model.safetensors", "student.json"}
    assert report.files["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert not report.address and not hub.asked and not hub.files


def test_what_was_pushed_loads_again(hub: type[Hub], folder: Path, student: Student) -> None:
    report = push_to_hub(folder, "someone/cat-clip", upload=True)
    assert report.address.endswith(COMMIT)
    assert {name: len(data) for name, data in hub.files.items()} == report.files
    assert b'load_student("hf-hub:someone/cat-clip")' in hub.files["README.md"]
    loaded = load_student("hf-hub:someone/cat-clip")
    with torch.no_grad():
        assert torch.equal(loaded.encode_text(["a red cat"]), student.encode_text(["a red cat"]))


def test_a_card_of_ones_own_goes_as_it_is(hub: type[Hub], folder: Path) -> None:
    (folder / "README.md").write_text("# Mine")
    push_to_hub(folder, "someone/cat-clip", upload=True)
    assert hub.files["README.md"] == b"# Mine"


SECRETS = {
    ".env": "KEY=1",
    "id_rsa": "x",
    "notes.txt": "my token is hf_" + "a" * 34,
    "run.json": '{"key": "AKIA' + "A" * 16 + '"}',
    "sub/log.jsonl": "-----BEGIN RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("name", SECRETS)
def test_input_secrets_are_not_sent(hub: type[Hub], folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(SECRETS[name])
    with pytest.raises(ValueError, match=r"secret.*nothing was sent") as caught:
        push_to_hub(folder, "someone/cat-clip", upload=True)
    assert name in str(caught.value) and "a" * 20 not in str(caught.value)
    assert not hub.asked


def test_input_what_is_no_student_is_not_sent(hub: type[Hub], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ValueError, match="no student, export or bundle"):
        push_to_hub(tmp_path / "thesis", "someone/cat-clip", upload=True)
    with pytest.raises(ValueError, match="USER/NAME"):
        push_to_hub(folder, "cat-clip", upload=True)
    assert not hub.asked


def test_what_the_hub_lacks_is_said(hub: type[Hub]) -> None:
    with pytest.raises(ValueError, match="cannot get hf-hub:someone/dog-clip"):
        load_student("hf-hub:someone/dog-clip")


def test_the_command_says_that_nothing_went(hub: type[Hub], folder: Path) -> None:
    console = Console(record=True, width=120)
    outcome = run_push([str(folder), "someone/cat-clip"], console)
    assert outcome.values["address"] == "" and not hub.asked
    assert "nothing sent; add --upload" in console.export_text()
    outcome = run_push([str(folder), "someone/cat-clip", "--upload"], Console(quiet=True))
    assert outcome.values["address"].endswith(COMMIT)
