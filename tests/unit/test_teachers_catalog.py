"""Pretrained names, their licences, and what unknown ones are answered."""

from pathlib import Path

import open_clip
import pytest

from teachers import list_teachers, load_teacher
from teachers.catalog import find_entry, licence_of


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B16/openai", "no teacher 'ViT-B16'; did you mean 'ViT-B-16'.*distill list teachers"),
        ("ViT-B-16/opnai", "has no weights 'opnai'; did you mean 'openai'"),
        ("ViT-B-16/none", "has no weights 'none'"),
        ("ViT-B-16", "names no weights: choose one of ViT-B-16/openai"),
        ("ViT-S-16/openai", "only its configuration"),
        ("./no-such-folder", "no folder no-such-folder"),
        ("local-dir:/no/such/folder", "no folder /no/such/folder"),
        (Path("/no/such/folder"), "no folder"),
    ],
)
def test_unknown_specs_say_what_to_do(spec, message):
    with pytest.raises(ValueError, match=message):
        load_teacher(spec)


def test_the_catalog_lists_every_pretrained_name():
    entries = list_teachers()
    assert len(entries) == len(open_clip.list_pretrained())
    assert all(find_entry(entry.spec) == entry for entry in entries)
    assert find_entry("ViT-B-16/LAION400M-E32").tag == "laion400m_e32"


@pytest.mark.parametrize(
    ("model", "tag", "licence"),
    [
        ("ViT-B-16", "openai", "MIT"),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", "MIT"),
        ("ViT-B-16", "dfn2b", "Apple AMLR (research only)"),
        ("MobileCLIP2-S0", "dfndr2b", "Apple AMLR (research only)"),
        ("MobileCLIP-B", "datacompdr_lt", "Apple AMLR (research only)"),
        ("ViT-B-16-SigLIP2-256", "webli", "Apache-2.0"),
        ("ViT-L-14-CLIPA", "datacomp1b", "Apache-2.0"),
        ("ViT-B-32", "metaclip_400m", "CC-BY-NC-4.0"),
        ("ViT-H-14-worldwide", "metaclip2_worldwide", "CC-BY-NC-4.0"),
        ("RN50", "yfcc15m", None),
    ],
)
def test_licences(model, tag, licence):
    assert (model, tag) in open_clip.list_pretrained()
    assert licence_of(model, tag) == licence
