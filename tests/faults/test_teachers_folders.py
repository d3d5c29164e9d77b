"""Teacher folders that are broken, and what the user is told."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from teachers import load_teacher

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def test_broken_folders_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"has no open_clip_config\.json"):
        load_teacher(tmp_path)
    (tmp_path / "student.json").write_text("{}")
    with pytest.raises(ValueError, match=r"students\.load_student"):
        load_teacher(tmp_path)
    config = tmp_path / "open_clip_config.json"
    config.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_teacher(tmp_path)
    config.write_text("{}")
    with pytest.raises(ValueError, match="has no 'model_cfg'"):
        load_teacher(tmp_path)
    config.write_text(json.dumps({"model_cfg": CONFIG}))
    with pytest.raises(ValueError, match="but no weights"):
        load_teacher(tmp_path)
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="could not be loaded as an open_clip model"):
        load_teacher(tmp_path)


def test_images_that_are_not_square_are_refused(tmp_path):
    config = CONFIG | {"vision_cfg": CONFIG["vision_cfg"] | {"image_size": [32, 64]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(open_clip.CLIP(**config).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="32 x 64 pixels"):
        load_teacher(tmp_path)
