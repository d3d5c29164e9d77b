"""The web page of an ONNX bundle, and where it takes onnxruntime-web from."""

import base64
import hashlib
import shutil
from pathlib import Path

ORT_WEB_VERSION = "1.30.0"
ORT_SCRIPT = "ort.wasm.min.js"
# The script asks for the other two by itself.
ORT_FILES = (ORT_SCRIPT, "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{ORT_WEB_VERSION}/dist/"
ORT_SCRIPT_SHA384 = "Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq"
PAGE_FILES = ("page.css", "page.js", "clip.js", "words.js", "resize.js")
_LOCAL = "ort"


def write_page(folder: Path, shipped: Path, ort_web: Path | None = None) -> None:
    """Write `index.html` and what it loads.

    Args:
        folder: the bundle.
        shipped: where the page's parts are.
        ort_web: the npm package onnxruntime-web, or its `dist`: what the page needs of it is
            copied to `ort/`, and nothing is loaded from elsewhere. By default the page names a CDN.

    Raises:
        ValueError: `ort_web` lacks a file.
    """
    if ort_web is None:
        integrity = f' integrity="sha384-{ORT_SCRIPT_SHA384}" crossorigin="anonymous"'
        script, sources = f'<script src="{_CDN}{ORT_SCRIPT}"{integrity}></script>', f" {_CDN}"
    else:
        _copy_runtime(ort_web, folder / _LOCAL)
        script, sources = f'<script src="{_LOCAL}/{ORT_SCRIPT}"></script>', ""
    text = (shipped / "index.html").read_text(encoding="utf-8")
    text = text.replace("<!-- onnxruntime-web -->", script).replace(" ONNXRUNTIME-WEB", sources)
    (folder / "index.html").write_text(text, encoding="utf-8")
    for name in PAGE_FILES:
        shutil.copyfile(shipped / name, folder / name)


def check_runtime(ort_web: Path) -> Path:
    """Return the folder that holds onnxruntime-web's files: the package's, or its `dist`."""
    for folder in (ort_web, ort_web / "dist", ort_web / "node_modules/onnxruntime-web/dist"):
        if all((folder / name).is_file() for name in ORT_FILES):
            return folder
    raise ValueError(
        f"no onnxruntime-web in {ort_web}: {ORT_SCRIPT} or its WebAssembly is missing. Get it with "
        f"`npm install onnxruntime-web@{ORT_WEB_VERSION}` and name node_modules/onnxruntime-web"
    )


def sha384(path: Path) -> str:
    """A file's digest as a page's `integrity` has it."""
    return base64.b64encode(hashlib.sha384(path.read_bytes()).digest()).decode()


def _copy_runtime(ort_web: Path, target: Path) -> None:
    source = check_runtime(ort_web)
    target.mkdir(exist_ok=True)
    for name in ORT_FILES:
        shutil.copyfile(source / name, target / name)
