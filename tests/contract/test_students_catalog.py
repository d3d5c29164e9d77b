"""Every catalogue entry builds and weighs what it says (on the meta device: no data)."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from students import CATALOG, OpenClipSpec
from students.building import open_clip_module
from students.student import reached_parameters
from students.two_tower import TwoTower


def entries() -> Iterator[object]:
    """Every name; the deep MobileCLIPs take seconds each."""
    for name in CATALOG:
        deep = name.startswith("MobileCLIP") and name != "MobileCLIP-S0"
        yield pytest.param(name, marks=pytest.mark.slow if deep else ())


@pytest.mark.parametrize("name", entries())
def test_an_entry_weighs_what_it_says(name: str) -> None:
    entry = CATALOG[name]
    with torch.device("meta"):
        if isinstance(entry.build, str | OpenClipSpec):
            spec = OpenClipSpec(model=entry.build) if isinstance(entry.build, str) else entry.build
            module = open_clip_module(spec)
            size = module.visual.image_size
            size = size[0] if isinstance(size, tuple) else size
        else:
            text = replace(entry.build.text, vocab_size=49408)
            module = TwoTower(replace(entry.build, text=text))
            size = entry.build.image_size
        image = reached_parameters(module, "encode_image", torch.zeros(1, 3, size, size))
        text = reached_parameters(module, "encode_text", torch.zeros(1, 77, dtype=torch.int64))
    # A name that says millions is either right or explained.
    said = re.search(r"-(\d+)M-.*Text-(\d+)M", name)
    if said and [round(n / 1e6) for n in (entry.image_params, entry.text_params)] != [
        int(each) for each in said.groups()
    ]:
        assert entry.remark
    sizes = {key: value.numel() for key, value in module.named_parameters()}
    assert sum(sizes[key] for key in image) == entry.image_params
    assert sum(sizes[key] for key in text) == entry.text_params
