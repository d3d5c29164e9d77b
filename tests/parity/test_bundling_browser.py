# Curly quotes are part of what is tested.
# ruff: noqa: RUF001
"""A bundle's web page says of pictures and texts what the model itself says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from browsing import needs_chromium, run_page
from test_bundling_words import CAPTIONS, scrambled, unbroken

from students import Student, StudentSpec, TextSpec, build_student, export
from students.bundling.browser import (
    ORT_FILES,
    ORT_SCRIPT,
    ORT_SCRIPT_SHA384,
    ORT_WEB_VERSION,
    PAGE_FILES,
    sha384,
)
from students.bundling.folder import SHIPPED, BundleOptions
from students.bundling.labels import Labels
from students.bundling.making import bundle
from students.bundling.vocabulary import write_vocabulary
from students.exporters.parity import made_up_samples
from teachers.contract import Preprocess
from teachers.tokenizers import OpenClipTokenizer, WordTokenizer

# Errors of the page come back too: a test that waits says why.
HARNESS = """<!doctype html><meta charset="utf-8"><script type="module">
const post = (value) => fetch("/posted", {method: "POST", body: JSON.stringify(value)});
try { await post(await (async () => { CODE })()); }
catch (error) { await post({error: String(error.stack)}); }
</script>"""


def harness(folder: Path, code: str) -> object:
    (folder / "harness.html").write_text(HARNESS.replace("CODE", code), encoding="utf-8")
    result = run_page(folder, "harness.html")
    assert not (isinstance(result, dict) and "error" in result), result["error"]
    return result


def pictures() -> list[Image.Image]:
    """Pictures of several shapes, smaller and larger than what a tower takes."""
    random = np.random.default_rng(0)
    sizes = [(64, 64), (30, 90), (201, 77), (640, 427), (64, 65), (5, 700), (1, 5000)]
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@needs_chromium
def test_the_page_feeds_towers_as_the_model_is_fed(tmp_path: Path) -> None:
    for name in PAGE_FILES:
        shutil.copyfile(SHIPPED / name, tmp_path / name)
    texts = [text for text in CAPTIONS + scrambled(400) if unbroken(text) and "\ud83d" not in text]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    tokenizers = {
        "clip": OpenClipTokenizer("ViT-B-32"),
        "words": WordTokenizer.fit(["a red cat on 2 dogs", "été 東"], context_length=8),
    }
    for name, tokenizer in tokenizers.items():
        (tmp_path / name).mkdir()
        write_vocabulary(tokenizer, tmp_path / name)
    shown = pictures()
    for i, picture in enumerate(shown):
        picture.save(tmp_path / f"{i}.png")
    wanted = [
        Preprocess(image_size=64, interpolation=interpolation, resize_mode=mode)
        for interpolation in ("bicubic", "bilinear")
        for mode in ("shortest", "squash")
    ]
    (tmp_path / "wanted.json").write_text(json.dumps([each.config() for each in wanted]))
    found = harness(
        tmp_path,
        """
        const { openTokenizer } = await import("./words.js");
        const { pixels } = await import("./resize.js");
        const { imageDataOf } = await import("./clip.js");
        const read = async (name) => (await fetch(name)).text();
        const texts = JSON.parse(await read("texts.json")), ids = {}, made = [];
        for (const kind of ["clip", "words"]) {
          const tokenizer = await openTokenizer((name) => read(`${kind}/${name}`));
          ids[kind] = texts.map((text) => Array.from(tokenizer.row(text), Number));
        }
        const bits = (array) => Array.from(new Uint32Array(array.buffer));
        for (let i = 0; i < COUNT; i++) {
          const data = await imageDataOf(await (await fetch(`${i}.png`)).blob());
          made.push(JSON.parse(await read("wanted.json")).map((one) => bits(pixels(data, one))));
        }
        return { ids, made };
        """.replace("COUNT", str(len(shown))),
    )
    for name, tokenizer in tokenizers.items():
        for text, row, expected in zip(texts, found["ids"][name], tokenizer(texts), strict=True):
            assert row == expected.tolist(), (name, text)
    for picture, forms in zip(shown, found["made"], strict=True):
        for preprocess, bits in zip(wanted, forms, strict=True):
            pixels = np.array(bits, dtype=np.uint32).view(np.float32).reshape(3, 64, 64)
            view = torch.from_numpy(preprocess.whole_view(picture))
            expected = preprocess.normalize(view[None])[0].numpy()
            np.testing.assert_array_equal(pixels, expected, err_msg=str(picture.size))


def settled() -> Student:
    """A student whose batch statistics fit its inputs, with a name that wants to be markup."""
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=2, heads=2)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=64)
    student = build_student(spec, name="<img src=x onerror=alert(1)>").train()
    samples = made_up_samples(student.tokenizer, count=7)
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([picture for picture, _ in samples])
    return student.eval()


@pytest.fixture(scope="module")
def ort_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine")
    folder = tmp_path_factory.mktemp("npm")
    package = f"onnxruntime-web@{ORT_WEB_VERSION}"
    done = subprocess.run([npm, "install", "--prefix", str(folder), package], capture_output=True)
    if done.returncode:
        pytest.skip(f"npm cannot install {package} here: {done.stderr.decode()[-200:]}")
    return folder


@pytest.mark.slow
@needs_chromium
def test_the_page_runs_the_student(ort_web: Path, tmp_path: Path) -> None:
    assert sha384(ort_web / "node_modules/onnxruntime-web/dist" / ORT_SCRIPT) == ORT_SCRIPT_SHA384
    student = settled()
    export(student, tmp_path / "export", samples=made_up_samples(student.tokenizer, count=7))
    labels = Labels(names=("cat", "<b>dog</b>", "it's café"), templates=("a {}", "one {}"))
    options = BundleOptions(labels=labels, ort_web=ort_web)
    bundle(tmp_path / "export", tmp_path / "bundles", options=options, student=student)
    folder = tmp_path / "bundles" / "onnx"
    assert all((folder / "ort" / name).is_file() for name in ORT_FILES)
    assert "https://" not in (folder / "index.html").read_text()
    picture = pictures()[3]
    picture.save(folder / "picture.png")
    found = harness(folder, DRIVE)
    texts = ["a “cat’s” tail", "<b>dogs</b> &amp; more"]
    assert found["texts"] == texts
    with torch.no_grad():
        row = student.encode_image([picture])[0].numpy()
        rows = student.encode_text(texts).numpy()
    np.testing.assert_allclose(found["picture"], row, atol=1e-5)
    np.testing.assert_allclose(found["rows"], rows, atol=1e-5)
    # The page as a person uses it: the bundle's labels, and names that stay text.
    assert found["title"] == student.name
    assert found["markup"] == 0
    logits = torch.tensor(found["labels"]) @ torch.from_numpy(row)
    shares = (student.logit_scale.detach().exp() * logits).softmax(dim=0)
    shown = {name: float(share) for name, share in zip(labels.names, shares, strict=True)}
    assert [name for name, _ in found["lines"]] == sorted(shown, key=lambda name: -shown[name])
    for name, share in found["lines"]:
        assert share == f"{100 * shown[name]:.1f} %"


DRIVE = """
const frame = document.createElement("iframe");
frame.src = "index.html";
document.body.append(frame);
const until = async (ready) => {
  while (!ready()) await new Promise((done) => setTimeout(done, 50));
};
const $ = (id) => frame.contentDocument.getElementById(id);
await until(() => $("work") && (!$("work").hidden || !$("trouble").hidden));
if (!$("trouble").hidden) throw new Error($("trouble").textContent);
const inside = frame.contentWindow;
await new Promise((done) => {
  const script = document.createElement("script");
  Object.assign(script, { src: "ort/ort.wasm.min.js", onload: done });
  document.head.append(script);
});
const blob = await (await fetch("picture.png")).blob();
const files = new inside.DataTransfer();
files.items.add(new inside.File([blob], "picture.png", { type: "image/png" }));
$("file").files = files.files;
$("file").dispatchEvent(new inside.Event("change"));
await until(() => $("time").textContent || !$("trouble").hidden);
await until(() => $("results").querySelector(".best") || !$("trouble").hidden);
if (!$("trouble").hidden) throw new Error($("trouble").textContent);
const lines = [...$("results").children].map((row) =>
  [row.querySelector("span").textContent, row.querySelector("span:last-child").textContent]);
const { openBundle, imageDataOf } = await import("./clip.js");
const clip = await openBundle(".");
const texts = ["a “cat’s” tail", "<b>dogs</b> &amp; more"];
const rows = await clip.embedTexts(texts);
return {
  lines, texts, title: $("name").textContent,
  markup: frame.contentDocument.querySelectorAll("h1 *, li b, li img").length,
  picture: Array.from(await clip.embedPicture(await imageDataOf(blob))),
  rows: rows.map((row) => Array.from(row)),
  labels: clip.labels.vectors.map((row) => Array.from(row)),
};
"""
