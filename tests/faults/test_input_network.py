"""Without a network: what is in the hub's cache loads at once, what is not says what to do."""

import json
import os
import subprocess
import sys

import open_clip
import pytest
from safetensors.torch import save_file

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
WITHOUT = {
    "offline": {"HF_HUB_OFFLINE": "1"},
    "blocked proxy": {
        "HF_HUB_OFFLINE": "0",
        **{name: "http://127.0.0.1:9" for name in ("HTTPS_PROXY", "https_proxy")},
    },
}
_LOAD = """
import json, time
from distill.cli import main
from teachers import load_teacher
warm = load_teacher("hf-hub:owner/warm")
began, messages = time.monotonic(), {}
for spec in ("hf-hub:owner/cold", "RN50/openai", "ViT-B-16-SigLIP/webli"):
    try:
        load_teacher(spec)
    except ConnectionError as error:
        messages[spec] = str(error)
code = main(["evaluate", "hf-hub:owner/cold", "--on", "x"])
print(json.dumps([warm.name, warm.embed_dim, messages, code, time.monotonic() - began]))
"""


@pytest.fixture(scope="module")
def hub_home(tmp_path_factory):
    """A hub cache with one small model, as huggingface_hub lays it out."""
    home = tmp_path_factory.mktemp("home")
    repository = home / "hub" / "models--owner--warm"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    weights = open_clip.CLIP(**CONFIG).state_dict()
    save_file(weights, snapshot / "open_clip_model.safetensors")
    return home


@pytest.mark.parametrize("how", ["blocked proxy", pytest.param("offline", marks=pytest.mark.slow)])
def test_without_a_network(hub_home, how):
    environment = {**os.environ, **WITHOUT[how], "HF_HOME": str(hub_home), "NO_PROXY": ""}
    command = [sys.executable, "-c", _LOAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    name, width, messages, code, seconds = json.loads(done.stdout.splitlines()[-1])
    assert (name, width) == ("owner/warm", 16)
    assert set(messages) == {"hf-hub:owner/cold", "RN50/openai", "ViT-B-16-SigLIP/webli"}
    obstacle = "HF_HUB_OFFLINE forbids" if how == "offline" else "cannot be reached"
    for spec, message in messages.items():
        assert f"{spec} is not in the cache {hub_home}" in message and obstacle in message
        assert "HF_HOME" in message and "local folder" in message
    # Not the program's failure, so no traceback; without the question it takes minutes.
    assert code == 1 and "Traceback" not in done.stderr and "local folder" in done.stderr
    assert seconds < 60
