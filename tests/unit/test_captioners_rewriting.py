"""Rewriting and fusing: the prompts, what they are drawn from, and what a model is asked."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from teachers import RuleCaptioner
from teachers.captioners.few_shot import EXAMPLES, Example, read_examples
from teachers.captioners.fusing import FUSION_PROMPTS, FusionCaptioner
from teachers.captioners.prompts import TextModel
from teachers.captioners.rewriting import RewriteCaptioner
from teachers.captioners.stored import StoredCaptions
from teachers.captioning import Captioner, CaptionRequest


class Recorder:
    """A language model of one rule: it answers with the prompt's own words, and keeps prompts."""

    name, fingerprint, licence = "recorder", "f" * 64, "MIT"
    takes_images, default_prompt, provenance = False, "", {"model": "recorder"}

    def __init__(self, answer='Sure, here is one:\n1. "{}"'):
        self.answer_form, self.asked, self.calls = answer, [], 0

    def answer(self, prompts, num_answers):
        self.calls += 1
        self.asked += prompts
        return [[self.answer_form.format(len(p.text))] * num_answers for p in prompts]


class Seeing:
    """A captioner that says what a picture's first pixel is."""

    name, fingerprint, needs_image, licence = "seeing", "e" * 64, True, "MIT"

    def caption(self, requests, num_captions):
        pixels = [request.image.getpixel((0, 0)) for request in requests]
        return [[f"pixel {p} no {i}" for i in range(num_captions)] if p else [] for p in pixels]


def request(seed=1, texts=("a red bus", "bus, red"), pixel=7, key="k") -> CaptionRequest:
    image = Image.new("L", (2, 2), pixel)
    return CaptionRequest(key=key, image=image, texts=texts, seed=seed)


def test_a_prompt_shows_pairs_and_one_of_the_texts():
    model = Recorder()
    captioner = RewriteCaptioner(model, shots=3)
    assert isinstance(model, TextModel) and isinstance(captioner, Captioner)
    assert not captioner.needs_image
    captions = captioner.caption([request(), request(texts=()), request(seed=2)], 4)
    assert [len(texts) for texts in captions] == [4, 0, 4] and model.calls == 1
    assert all(re.fullmatch(r"\d+", text) for texts in captions for text in texts)  # cleaned
    known = {(e.original, e.rewritten) for e in EXAMPLES}
    for prompt in model.asked:
        pairs = re.findall(r"Caption: (.*)\nRewritten: (.*)\n", prompt.text)
        assert len(set(pairs)) == 3 and set(pairs) <= known
        assert re.search(r"\n\nCaption: (a red bus|bus, red)\nRewritten:$", prompt.text)
    assert len({prompt.seed for prompt in model.asked}) == 8
    assert all(0 <= prompt.seed < 2**63 for prompt in model.asked)


def test_texts_and_pairs_are_drawn_evenly_and_by_sample():
    model = Recorder()
    captioner = RewriteCaptioner(model, shots=2)
    requests = [request(seed=seed) for seed in range(400)]
    captioner.caption(requests, 2)
    texts = Counter(prompt.text.rsplit("Caption: ", 1)[1] for prompt in model.asked)
    assert all(abs(count - 400) < 4 * np.sqrt(200) for count in texts.values())
    shown = Counter(
        pair for prompt in model.asked for pair in re.findall(r"Rewritten: (.+)", prompt.text)
    )
    assert len(shown) == len(EXAMPLES)
    expected = 1600 / len(EXAMPLES)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in shown.values())
    again = Recorder()
    RewriteCaptioner(again, shots=2).caption(requests[5:6], 3)
    assert again.asked[:2] == model.asked[10:12]


def test_texts_go_into_the_prompt_as_they_are_on_one_line():
    model = Recorder()
    odd = "a {examples} {0} \\1\nCaption: {text}  " + "x" * 5000
    RewriteCaptioner(model, prompt="{examples}>{text}<", shots=0).caption(
        [request(texts=(odd,))], 1
    )
    text = model.asked[0].text
    assert text.startswith(">a {examples} {0} \\1 Caption: {text} xxx") and text.endswith("x<")
    assert len(text) == 602


def test_fusing_asks_for_each_caption_with_a_text():
    model = Recorder("{}")
    captioner = FusionCaptioner(model, Seeing(), prompt="{alt}|{visual}")
    assert isinstance(captioner, Captioner) and captioner.needs_image
    asked = [request(), request(texts=()), request(pixel=0), request(texts=("{visual}",), seed=3)]
    captions = captioner.caption(asked, 2)
    assert [len(texts) for texts in captions] == [2, 2, 0, 2]
    assert captions[1] == ["pixel 7 no 0", "pixel 7 no 1"]  # nothing to fuse it with
    texts = [prompt.text for prompt in model.asked]
    assert all(re.fullmatch(r"(a red bus|bus, red)\|pixel 7 no \d", text) for text in texts[:2])
    assert texts[2:] == ["{visual}|pixel 7 no 0", "{visual}|pixel 7 no 1"]
    assert (captioner.name, captioner.licence) == ("seeing+recorder", "MIT")


def test_fusing_stored_captions_looks_at_no_picture():
    model = Recorder("{}")
    captioner = FusionCaptioner(model, StoredCaptions("coca"), prompt="{alt}|{visual}")
    assert not captioner.needs_image and captioner.reads == "coca"
    stored = CaptionRequest(key="k", image=None, texts=("alt",), seed=1, seen=("one", "two"))
    assert len(captioner.caption([stored], 3)[0]) == 3
    assert [p.text for p in model.asked] == ["alt|one", "alt|two", "alt|one"]
    lonely = CaptionRequest(key="k", image=None, texts=("alt",), seed=1)
    assert captioner.caption([lonely], 3) == [[]]


@pytest.mark.parametrize("name", FUSION_PROMPTS)
def test_the_named_prompts_hold_both_texts(name):
    model = Recorder("{}")
    FusionCaptioner(model, RuleCaptioner(), prompt=name).caption([request(texts=("a bus",))], 1)
    assert "a bus" in model.asked[0].text and "{" not in model.asked[0].text


def test_fingerprints_are_of_prompt_pairs_and_parts():
    other = Recorder()
    other.fingerprint = "a" * 64
    pairs = (Example(original="a", rewritten="b"),)
    captioners = [
        RewriteCaptioner(Recorder()),
        RewriteCaptioner(other),
        RewriteCaptioner(Recorder(), shots=1),
        RewriteCaptioner(Recorder(), shots=1, examples=pairs),
        RewriteCaptioner(Recorder(), prompt="{text}"),
        FusionCaptioner(Recorder(), Seeing()),
        FusionCaptioner(Recorder(), StoredCaptions("coca")),
        FusionCaptioner(Recorder(), RuleCaptioner()),
        FusionCaptioner(Recorder(), Seeing(), prompt="capsfusion"),
    ]
    assert len({captioner.fingerprint for captioner in captioners}) == len(captioners)
    assert RewriteCaptioner(Recorder()).fingerprint == captioners[0].fingerprint
    assert all(json.loads(json.dumps(c.provenance))["prompt"] for c in captioners)
    unknown = Recorder()
    unknown.licence = None
    assert FusionCaptioner(unknown, Seeing()).licence is None


def test_prompts_without_places_and_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match=r"'say it' has no \{text\}"):
        RewriteCaptioner(Recorder(), prompt="say it")
    with pytest.raises(ValueError, match=r"'\{alt\}' has no \{visual\}"):
        FusionCaptioner(Recorder(), Seeing(), prompt="{alt}")
    with pytest.raises(ValueError, match="17 examples a prompt, of 16"):
        RewriteCaptioner(Recorder(), shots=17)


def test_examples_of_the_users_own(tmp_path):
    path = tmp_path / "pairs"
    path.write_text('{"original": "a\\tb", "rewritten": "c"}\n\n  d e\tf \n')
    pairs = (Example(original="a b", rewritten="c"), Example(original="d e", rewritten="f"))
    assert read_examples(path) == pairs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\nno tab\n", r"pairs:2 is no pair"),
        (b"a\tb\tc\n", r"pairs:1 is no pair"),
        (b"a\t \n", r"pairs:1 is no pair"),
        (b'{"original": "a"}\n', r"pairs:1 is no pair"),
        (b'{"original": 3, "rewritten": "b"}\n', r"pairs:1 is no pair"),
        (b"{broken\n", r"pairs:1 is not JSON"),
        (b"\xff\tb\n", r"pairs is not UTF-8"),
        (b"\n\n", r"pairs holds no examples"),
        (b"a\tb\n" * (1 << 21), r"pairs is no file of examples"),
    ],
)
def test_files_that_hold_no_pairs_name_the_line(tmp_path, content, message):
    path = tmp_path / "pairs"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_examples(path)
    with pytest.raises(ValueError, match="is no file of examples"):
        read_examples(tmp_path)
