"""Captioners through `distill caption`: a real CoCa and a real server, small both."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from distill.cli import main
from reinforced_data import open_dataset
from reinforced_data.store.layout import open_store
from reinforced_data.testing import write_source

TOWERS = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIG = {
    "embed_dim": 16,
    "multimodal_cfg": {**TOWERS, "attn_pooler_heads": 2},
    "text_cfg": {**TOWERS, "embed_cls": True, "output_tokens": True},
    "vision_cfg": {
        **{"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
        **{"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A source, a folder with a CoCa that is both teacher and captioner, and a store."""
    folder = tmp_path_factory.mktemp("captioners")
    write_source(folder / "source", 9)
    torch.manual_seed(0)
    module = open_clip.CoCa(**CONFIG)
    for name, weights in module.named_parameters():
        if name != "logit_scale":
            torch.nn.init.normal_(weights, std=0.3)
    (folder / "coca").mkdir()
    config = {"model_cfg": {**CONFIG, "custom_text": True}}
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "coca" / "open_clip_config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), folder / "coca" / "open_clip_model.safetensors")
    for store in ("store", "again"):
        command = ["reinforce", folder / "source", folder / store, "--teachers", folder / "coca"]
        assert main([*map(str, command), "--num-views", "2", "--json"]) == 0
    return folder


@pytest.fixture
def server(monkeypatch):
    """A server that answers with the length of what it was shown and asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CAPTION_API_KEY", "sk-secret")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = len(json.dumps(body["messages"]))
            text = f'Sure, here it is:\n"A picture of {asked} letters, {body["seed"]}."'
            sent = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
        thread.join()


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def captions(path, name) -> list[list[str]]:
    store = open_store(path)
    (column,) = (c for c in store.columns() if c.identity.get("set") == name)
    rows = [store.rows(column, shard)["captions"].to_pylist() for shard in range(2)]
    return [texts for shard in rows for texts in shard]


def test_a_coca_writes_a_set_that_its_own_text_tower_embeds(place, capsys):
    command = ["--name", "coca", "--captioner", f"coca:{place / 'coca'}", "--max-tokens", 8]
    command += ["--num-captions", 3, "--teachers", place / "coca"]
    code, report = run(capsys, "caption", place / "store", *command)
    assert (code, report["samples"], report["shards"]) == (0, 9, 2)
    code, again = run(capsys, "caption", place / "store", *command)
    assert (code, again["written"], again["shards_already_done"]) == (0, 0, 2)
    # Other batches, another store: the same texts.
    code, _ = run(capsys, "caption", place / "again", *command, "--batch-size", 2)
    assert code == 0
    texts = captions(place / "store", "coca")
    assert texts == captions(place / "again", "coca") and sum(map(len, texts)) == report["written"]
    assert all(1 <= len(row) <= 3 for row in texts) and len(texts) == 9
    code, audit = run(capsys, "audit", place / "store", "--teachers", place / "coca")
    assert code == 0 and any("coca-coca" in name for name in audit["cosines"])
    assert open_dataset(place / "store")


def test_a_server_writes_from_pictures_and_from_texts(place, capsys, server):
    written = {}
    for name, spec in {
        "seen": f"endpoint:{server}#tiny",
        "said": f"rewrite:endpoint:{server}#tiny",
        "both": f"fuse:coca:{place / 'coca'},endpoint:{server}#tiny",
    }.items():
        command = ["caption", place / "store", "--name", name, "--captioner", spec]
        code, report = run(capsys, *command, "--num-captions", 2, "--concurrency", 3)
        assert (code, report["written"]) == (0, 18)
        written[name] = captions(place / "store", name)
        assert all(text.startswith("A picture of ") for row in written[name] for text in row)
    assert len({json.dumps(texts) for texts in written.values()}) == 3
    on_disk = b"".join(p.read_bytes() for p in (place / "store").rglob("*") if p.is_file())
    assert b"sk-secret" not in on_disk and b'"model": "tiny"' in on_disk


def test_a_setting_that_cannot_be_ends_with_2(place, capsys):
    spec = "rewrite:endpoint:http://127.0.0.1:9/v1#tiny"
    told = ["caption", place / "store", "--name", "gone", "--captioner", spec]
    assert main([*map(str, told), "--concurrency", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
