"""`load_captioner`: specs, settings, and what is answered to wrong ones."""

import pytest

from teachers import CaptionerSettings, load_captioner
from teachers.captioners.catalog import CAPTIONERS, absolute_captioner
from teachers.captioners.fusing import FUSION_PROMPTS, FusionCaptioner
from teachers.captioners.prompts import PromptedCaptioner
from teachers.captioners.rewriting import LACLIP_SAMPLING, RewriteCaptioner


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coco:x", "no captioner 'coco'; did you mean 'coca'"),
        ("rules:x", "'rules' takes nothing after its name, got 'x'"),
        ("coca", "'coca' does not say which: coca:MODEL/TAG"),
        ("coca:", "'coca' does not say which: coca:MODEL/TAG"),
        ("coca:coca_ViT-L-15/openai", "no teacher 'coca_ViT-L-15'; did you mean 'coca_ViT-L-14'"),
        ("transformers", "does not say which: transformers:ID_OR_FOLDER"),
        ("transformers:./no-such-folder", "no folder no-such-folder"),
        ("endpoint:http://host/v1", "endpoint:http://host/v1 names no model: endpoint:URL#MODEL"),
        ("endpoint:host#m", "'host' is no address of a server"),
        ("rewrite:rules", "no source of language models .*'rewrite:rules'.* 'rules'"),
        ("rewrite:endpont:x", "did you mean 'endpoint'"),
        ("rewrite:endpoint:", "'rewrite:endpoint:' does not say which model: endpoint:URL#MODEL"),
        ("fuse:endpoint:http://host/v1#m", "needs two parts, as in fuse:coca:"),
        ("fuse:coco:x,endpoint:http://host/v1#m", "no captioner 'coco'; did you mean 'coca'"),
        ("fuse:rules,coca:x", "no source of language models"),
        ("coca:./no-such-folder", "no folder no-such-folder"),
    ],
)
def test_wrong_specs_say_what_to_do(spec, message):
    with pytest.raises(ValueError, match=message):
        load_captioner(spec)


def test_every_line_begins_with_its_name():
    for name, entry in CAPTIONERS.items():
        assert entry.form.partition(":")[0] == name and entry.summary


def test_an_endpoint_is_set_up_without_being_asked():
    settings = CaptionerSettings(prompt="Say it.", temperature=0.5, concurrency=3)
    captioner = load_captioner("endpoint:http://localhost:1/v1#owner/model", settings)
    assert isinstance(captioner, PromptedCaptioner)
    assert (captioner.name, captioner.prompt) == ("owner/model", "Say it.")
    model = captioner.model
    assert (model.concurrency, model.sampling.temperature) == (3, 0.5)


def test_rewriting_draws_as_laclip_does_and_as_it_is_told(tmp_path):
    spec = "rewrite:endpoint:http://localhost:1/v1#m"
    captioner = load_captioner(spec)
    assert isinstance(captioner, RewriteCaptioner)
    assert captioner.model.sampling == LACLIP_SAMPLING
    (tmp_path / "pairs").write_text("a\tb\n")
    told = load_captioner(spec, CaptionerSettings(top_p=0.5, examples=str(tmp_path / "pairs")))
    assert (told.model.sampling.top_p, told.model.sampling.temperature) == (0.5, 0.9)
    assert (told.shots, [pair.rewritten for pair in told.examples]) == (1, ["b"])


def test_fusing_hands_on_where_to_run_but_not_how_to_write():
    server = "endpoint:http://localhost:1/v1"
    settings = CaptionerSettings(temperature=0.3, concurrency=2, prompt="capsfusion")
    captioner = load_captioner(f"fuse:{server}#seeing,{server}#writing", settings)
    assert isinstance(captioner, FusionCaptioner)
    assert captioner.prompt == FUSION_PROMPTS["capsfusion"]
    assert (captioner.name, captioner.needs_image) == ("seeing+writing", True)
    seeing, writing = captioner.visual.model, captioner.model
    assert (seeing.concurrency, writing.concurrency) == (2, 2)
    assert (seeing.sampling.temperature, writing.sampling.temperature) == (1.0, 0.3)
    assert not load_captioner(f"fuse:rules,{server}#writing").needs_image


def test_useless_and_senseless_settings_are_refused():
    with pytest.raises(ValueError, match=r"'coca' has no use for prompt; the settings it takes"):
        load_captioner("coca:x", CaptionerSettings(prompt="say"))
    with pytest.raises(ValueError, match=r"'rewrite' has no use for device; .*concurrency"):
        load_captioner("rewrite:endpoint:http://h/v1#m", CaptionerSettings(device="cuda"))
    with pytest.raises(ValueError, match=r"'fuse' has no use for examples, precision"):
        settings = CaptionerSettings(precision="bf16", examples="x")
        load_captioner("fuse:rules,endpoint:http://h/v1#m", settings)
    with pytest.raises(ValueError, match="top_p must be above 0"):
        load_captioner("coca:x", CaptionerSettings(top_p=2.0))


def test_a_specification_travels_with_absolute_folders_and_nothing_else_changes(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "rules", "8000"):
        (tmp_path / name).mkdir()
    assert absolute_captioner("coca:model") == f"coca:{tmp_path}/model"
    assert absolute_captioner("coca:local-dir:model") == f"coca:local-dir:{tmp_path}/model"
    fused = absolute_captioner("fuse:coca:model,transformers:model")
    assert fused == f"fuse:coca:{tmp_path}/model,transformers:{tmp_path}/model"
    rewriting = absolute_captioner("rewrite:transformers:model")
    assert rewriting == f"rewrite:transformers:{tmp_path}/model"
    names = ("rules", "coca:MODEL/TAG", "endpoint:http://localhost:8000", "fuse:set:model,x:y")
    for spec in names:
        assert absolute_captioner(spec) == spec
