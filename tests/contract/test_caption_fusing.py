"""Fusing a stored caption set with the source's texts, and servers that have to be asked again."""

import http.server
import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from distill.cli import main
from reinforced_data import ViewPolicy, caption, open_dataset, reinforce
from reinforced_data.store.columns import caption_sets
from reinforced_data.store.layout import open_store
from reinforced_data.testing import tiny_teacher, write_source
from teachers import RuleCaptioner
from teachers.captioners.fusing import FusionCaptioner
from teachers.captioners.stored import StoredCaptions

QUIET = {"progress": False}
SAMPLES, SHARD = 12, 4
ASKED = Counter[str]()


class Joiner:
    """A language model that answers with the prompt; it can be told to fail at a call."""

    name, fingerprint, licence = "joiner", "f" * 64, "MIT"
    takes_images, default_prompt, provenance = False, "", {"model": "joiner"}

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = 0, fails_at

    def answer(self, prompts, num_answers):
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError("the server is gone")
        return [[prompt.text] * num_answers for prompt in prompts]


def fuser(model=None, name="rules"):
    return FusionCaptioner(model or Joiner(), StoredCaptions(name), prompt="{alt} with {visual}")


@pytest.fixture
def store(tmp_path) -> Path:
    """Three shards with a set that rules wrote."""
    source = write_source(tmp_path / "source", SAMPLES, samples_per_shard=SHARD)
    settings = {"num_views": 1, "policy": ViewPolicy(num_ops=0), **QUIET}
    reinforce(source, tmp_path / "store", teachers=tiny_teacher(), **settings)
    caption(tmp_path / "store", RuleCaptioner(), name="rules", num_captions=2, **QUIET)
    return tmp_path / "store"


def texts(store: Path, name: str) -> list[list[str]]:
    opened = open_store(store)
    column = caption_sets(opened.columns())[name]
    return [
        row
        for shard in sorted(opened.done(column))
        for row in opened.rows(column, shard)["captions"].to_pylist()
    ]


def test_each_fused_caption_is_of_the_samples_own_two_texts(store, tmp_path):
    for shard in (tmp_path / "source").glob("*.tar"):
        shard.write_bytes(b"nobody looks at a picture")
    report = caption(store, fuser(), name="fused", num_captions=2, **QUIET)
    assert (report.samples, report.skipped, report.waiting) == (SAMPLES, {}, 0)
    pages, seen, fused = (texts(store, name) for name in ("original", "rules", "fused"))
    for page, written, found in zip(pages, seen, fused, strict=True):
        assert found == [f"{page[0]} with {one}" for one in written]
    sets = caption_sets(open_store(store).columns())
    assert sets["fused"].identity["reads"] == sets["rules"].name
    assert sets["fused"].facts["provenance"]["visual"] == {"set": "rules"}


def test_fusing_goes_on_where_it_ended_and_waits_for_its_set(store):
    more = {"name": "fused", "num_captions": 2, "batch_size": SHARD, **QUIET}
    with pytest.raises(OSError, match="the server is gone"):
        caption(store, fuser(Joiner(fails_at=2)), **more)
    assert len(texts(store, "fused")) == SHARD
    model = Joiner()
    report = caption(store, fuser(model), teachers=tiny_teacher(), **more)
    assert (model.calls, report.shards, report.samples) == (2, 3, SAMPLES)
    whole = texts(store, "fused")
    # Of a set that lacks a shard the others are done, and that one waits.
    rules = caption_sets(open_store(store).columns())["rules"].name
    (store / "commits" / rules / "00001.json").unlink()
    report = caption(store, fuser(), **{**more, "name": "again"})
    assert (report.shards, report.waiting) == (2, 1)
    caption(store, RuleCaptioner(), name="rules", num_captions=2, **QUIET)
    report = caption(store, fuser(), **{**more, "name": "again"})
    assert (report.shards, report.waiting) == (3, 0) and texts(store, "again") == whole
    assert {"rules", "fused", "again"} <= set(open_dataset(store).caption_sets)


def test_sets_that_cannot_be_read(store):
    with pytest.raises(ValueError, match="cannot be made from itself"):
        caption(store, fuser(name="fused"), name="fused", **QUIET)
    with pytest.raises(ValueError, match="no caption set 'ruls'; did you mean 'rules'"):
        caption(store, fuser(name="ruls"), name="fused", **QUIET)


class Hesitant(http.server.BaseHTTPRequestHandler):
    """Refuses every first request of a text, then answers it."""

    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = said["messages"][0]["content"]
        ASKED[prompt] += 1
        first = ASKED[prompt] == 1
        message = {"message": {"content": f"a fused picture {len(ASKED)}"}}
        body = b"busy" if first else json.dumps({"choices": [message]}).encode()
        self.send_response(503 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Quiet."""


def test_the_command_says_how_often_a_server_was_asked_again_and_why(store, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("teachers.captioners.posting.Patience.wait", lambda *_: 0.01)
    ASKED.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hesitant)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        spec = f"fuse:set:rules,endpoint:http://127.0.0.1:{server.server_port}/v1#tiny"
        command = ["caption", str(store), "--name", "fused", "--captioner", spec]
        command += ["--num-captions", "1", "--concurrency", "2"]
        code = main(command)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        # Each sample's prompt is another, and was refused once.
        assert len(ASKED) == SAMPLES
        assert f"asked again: {SAMPLES} x HTTP 503 Service Unavailable" in printed.out
        told = " ".join(printed.err.split())
        assert "/v1/chat/completions is asked again (1 x HTTP 503 Service Unavailable)" in told
        assert "(10 x HTTP 503 Service Unavailable)" in told and "(2 x HTTP" not in told
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["retries"] == {}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
