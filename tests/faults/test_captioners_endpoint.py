"""A real HTTP server here that fails in planned ways, and what the captioner makes of it."""

import base64
import email.utils
import io
import json
import logging
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from teachers.captioners.endpoint import KEY_VARIABLE, EndpointModel
from teachers.captioners.posting import Patience
from teachers.captioners.prompts import Prompt, PromptedCaptioner, TextModel
from teachers.captioners.sampling import Sampling
from teachers.captioning import CaptionRequest

KEY = "sk-very-secret-0123456789"
QUICK = Patience(attempts=4, first_wait=0.02, longest_wait=2.0, timeout=5.0)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def completion(text="A red bus.", **choice) -> dict:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop", **choice}]}


class Server(ThreadingHTTPServer):
    """Answers by `plan`: called with the request's body and its number, gives (status, headers,
    bytes or JSON, seconds to wait)."""

    daemon_threads = True

    def __init__(self, plan):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.lock = plan, threading.Lock()
        self.bodies, self.headers, self.times = [], [], []
        self.active = self.most = 0

    def handle_error(self, *_):
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.headers.append((self.path, dict(self.headers)))
            server.times.append(time.monotonic())
            server.active += 1
            server.most = max(server.most, server.active)
        answer = server.plan(body, number)
        status, headers, content, seconds = *answer, *({}, b"", 0)[len(answer) - 1 :]
        time.sleep(seconds)
        with server.lock:
            server.active -= 1
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(sent)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        """Quiet."""


@contextmanager
def serving(plan):
    server = Server(plan)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def model(server, **options) -> EndpointModel:
    options = {"patience": QUICK, **options}
    return EndpointModel(f"http://127.0.0.1:{server.server_port}/v1", "tiny", **options)


def prompts(count=1) -> list[Prompt]:
    return [Prompt(key=f"k{i}", text=f"text {i}", seed=i) for i in range(count)]


def always(*answer):
    return lambda body, number: answer


def test_what_is_sent():
    with serving(always(200, {}, completion())) as server:
        asked = model(server, sampling=Sampling(max_tokens=9), max_side=20, body={"top_k": 5})
        assert isinstance(asked, TextModel)
        image = Image.new("RGBA", (40, 30), "red")
        prompt = Prompt(key="k", text="what?", seed=2**63 - 1, image=image)
        assert asked.answer([prompt], 3) == [["A red bus."] * 3]
    path, headers = server.headers[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"], body["top_k"]) == ("tiny", 9, 5)
    assert (body["temperature"], body["top_p"]) == (1.0, 0.9)
    seeds = {body["seed"] for body in server.bodies}
    assert len(seeds) == 3 and all(0 <= seed < 2**31 for seed in seeds)
    picture, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what?"}
    head, _, data = picture["image_url"]["url"].partition(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64" and (sent.format, sent.size) == ("JPEG", (20, 15))
    assert image.size == (40, 30)


def test_answers_keep_their_places_and_the_bound_holds():
    def plan(body, number):
        text = body["messages"][0]["content"]
        return 200, {}, completion(text[::-1]), 0.05 if number % 3 else 0.15

    with serving(plan) as server:
        answers = model(server, concurrency=3).answer(prompts(12), 2)
    assert answers == [[f"text {i}"[::-1]] * 2 for i in range(12)]
    assert server.most == 3 and len(server.bodies) == 24


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(status):
    def plan(body, number):
        return (status, {}, b"busy") if number < 2 else (200, {}, completion())

    with serving(plan) as server:
        assert model(server).answer(prompts(), 1) == [["A red bus."]]
    assert len(server.bodies) == 3 and server.bodies[0] == server.bodies[2]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_by_all_threads(form):
    def plan(body, number):
        if number:
            return 200, {}, completion()
        wish = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        return 429, {"Retry-After": wish}, b"slow down"

    with serving(plan) as server:
        model(server, concurrency=1).answer(prompts(3), 1)
    assert len(server.bodies) == 4
    # A date has whole seconds, so two may be little more than one.
    assert server.times[1] - server.times[0] >= 0.99


def test_a_wish_that_is_too_long_ends_at_once():
    said = r"after 1 attempts.*429.*come back later"
    with (
        serving(always(429, {"Retry-After": "3600"}, b"come back later")) as server,
        pytest.raises(ConnectionError, match=said),
    ):
        model(server).answer(prompts(), 1)
    assert len(server.bodies) == 1


def test_a_server_that_never_recovers():
    plan = always(500, {}, b"out of memory")
    with serving(plan) as server, pytest.raises(ConnectionError) as caught:
        model(server, concurrency=1).answer(prompts(20), 1)
    said = str(caught.value)
    assert "after 4 attempts" in said and "HTTP 500" in said and "out of memory" in said
    assert "/v1/chat/completions" in said and "same command again" in said
    assert len(server.bodies) == 4  # the others were not sent any more
    gaps = [b - a for a, b in zip(server.times[:4], server.times[1:4], strict=False)]
    assert gaps[0] >= 0.01 and gaps[2] >= 0.04  # half of 0.02 and of 0.08 at the least


def test_a_slow_server_is_given_up_and_asked_again():
    def plan(body, number):
        return 200, {}, completion(), 3 if number == 0 else 0

    patience = Patience(attempts=2, first_wait=0.01, timeout=1.5)
    with serving(plan) as server:
        assert model(server, patience=patience).answer(prompts(), 1) == [["A red bus."]]
        assert len(server.bodies) == 2
    plan = always(200, {}, completion(), 3)
    with serving(plan) as server, pytest.raises(ConnectionError, match=r"silence for 1.5 s"):
        model(server, patience=patience).answer(prompts(), 1)


def test_nobody_there():
    with serving(always(200)) as server:
        pass
    with pytest.raises(ConnectionError, match=r"after 4 attempts.*[Rr]efused"):
        model(server).answer(prompts(), 1)


@pytest.mark.parametrize(
    "content",
    [b"<html>Bad gateway</html>", b"", b"{", b"[]", b'{"choices": []}', b'{"error": "x"}', b"\xff"],
)
def test_malformed_answers_are_asked_again_then_shown(content):
    def plan(body, number):
        return 200, {}, content if number == 0 or body["seed"] == 0 else completion()

    with serving(plan) as server:
        assert model(server).answer(prompts(), 1) == [["A red bus."]]
        with pytest.raises(ConnectionError, match="no chat completion"):
            model(server, body={"seed": 0}).answer(prompts(), 1)


def test_a_connection_that_breaks_off():
    def plan(body, number):
        return 200, {"Content-Length": "1000"} if number == 0 else {}, completion()

    patience = Patience(attempts=2, first_wait=0.01, timeout=20.0)
    with serving(plan) as server:
        assert model(server, patience=patience).answer(prompts(), 1) == [["A red bus."]]


@pytest.mark.parametrize("form", [{"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}])
def test_an_error_that_breaks_off_is_asked_again(form):
    def plan(body, number):
        return (503, form, b"5\r\nhal") if number == 0 else (200, {}, completion())

    patience = Patience(attempts=2, first_wait=0.01, timeout=20.0)
    with serving(plan) as server:
        assert model(server, patience=patience).answer(prompts(), 1) == [["A red bus."]]


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_not_repeated_and_names_the_sample(status, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with (
        serving(always(status, {}, b'{"error": "no model tiny"}')) as server,
        pytest.raises(ValueError, match=rf"sample 'k0'.*HTTP {status}.*no model tiny") as error,
    ):
        model(server).answer(prompts(), 1)
    assert len(server.bodies) == 1
    assert (f"{KEY_VARIABLE} is not set" in str(error.value)) == (status == 401)


def test_a_redirection_is_not_followed(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving(always(200, {}, completion())) as other:
        target = f"http://127.0.0.1:{other.server_port}/v1/chat/completions"
        said = r"redirects to http.*give that address instead"
        plan = always(307, {"Location": target})
        with serving(plan) as server, pytest.raises(ValueError, match=said):
            model(server).answer(prompts(), 1)
    assert not other.bodies


def test_the_key_is_sent_and_shown_nowhere(monkeypatch, caplog):
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    echo = f"your key {KEY} is wrong".encode()
    with serving(always(401, {}, echo)) as server:
        asked = model(server)
        with pytest.raises(ValueError) as refused:
            asked.answer(prompts(), 1)
    with serving(always(500, {}, echo)) as broken, pytest.raises(ConnectionError) as failed:
        model(broken).answer(prompts(), 1)
    assert server.headers[0][1]["Authorization"] == f"Bearer {KEY}"
    assert "was sent" in str(refused.value) and "***" in str(refused.value)
    shown = [str(refused.value), str(failed.value), repr(vars(asked)), caplog.text]
    assert not any(KEY in text for text in [*shown, json.dumps(asked.provenance)])
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\nX-Evil: 1")
    with pytest.raises(ValueError, match="holds what no key can be") as odd:
        asked.answer(prompts(), 1)
    assert KEY not in str(odd.value)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"content": None}}, ""),
        ({"message": {"content": "A bus."}, "finish_reason": "content_filter"}, ""),
        ({"message": {"content": "A bus. It has"}, "finish_reason": "length"}, "A bus."),
        ({"message": {"content": [{"type": "text", "text": "A bus."}]}}, "A bus."),
    ],
)
def test_answers_with_little_in_them(choice, text):
    with serving(always(200, {}, {"choices": [choice]})) as server:
        assert model(server).answer(prompts(), 1) == [[text]]


def test_one_failure_ends_all_soon_and_leaves_no_thread():
    def plan(body, number):
        refused = body["messages"][0]["content"] == "text 3"
        return (400, {}, b"no") if refused else (503, {}, b"busy")

    patience = Patience(attempts=50, first_wait=30.0, longest_wait=60.0)
    with serving(plan) as server:
        began = time.monotonic()
        with pytest.raises(ValueError, match="sample 'k3'"):
            model(server, patience=patience, concurrency=4).answer(prompts(40), 1)
        assert time.monotonic() - began < 10
        mine = [thread for thread in threading.enumerate() if thread.name == "caption"]
        assert all(thread.daemon for thread in mine)  # Ctrl-C must not wait for a silent server
        end = time.monotonic() + 10
        while any(thread.name.startswith("caption") for thread in threading.enumerate()):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert len(server.bodies) <= 4


def test_as_a_captioner():
    answer = completion('Sure, here is a caption:\n"A red bus."')
    with serving(always(200, {}, answer)) as server:
        captioner = PromptedCaptioner(model(server), prompt="Say it.")
        image = Image.new("RGB", (8, 8))
        asked = [CaptionRequest(key="k", image=image, texts=(), seed=1)]
        assert captioner.caption(asked, 2) == [["A red bus.", "A red bus."]]
    elsewhere = EndpointModel("https://example.org/v1/", "tiny", patience=QUICK)
    assert PromptedCaptioner(elsewhere, prompt="Say it.").fingerprint == captioner.fingerprint
    assert elsewhere.url == "https://example.org/v1/chat/completions"
    assert captioner.name == "tiny" and captioner.provenance["prompt"] == "Say it."


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("localhost:8000", {}, "no address of a server"),
        ("file:///etc/passwd", {}, "no address of a server"),
        ("http://user:pass@host/v1", {}, "the address of host holds a password"),
        ("http://host/v1?key=abc", {}, "the address of host holds a password, a query"),
        ("http://host/v1", {"model": ""}, "which model of http://host/v1"),
        ("http://host/v1", {"concurrency": 0}, "at least 1"),
    ],
)
def test_addresses_and_settings_that_cannot_be(url, options, message):
    with pytest.raises(ValueError, match=message) as error:
        EndpointModel(url, **{"model": "tiny", **options})
    assert "pass@" not in str(error.value) and "abc" not in str(error.value)


@pytest.mark.parametrize("bad", [{"attempts": 0}, {"timeout": 0.0}, {"first_wait": -1.0}])
def test_impatience_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Patience(**bad)
