"""`load_captioner`: specs, settings, and what is answered to wrong ones."""

import pytest

from teachers import CaptionerSettings, load_captioner
from teachers.captioners.catalog import CAPTIONERS
from teachers.captioners.prompts import PromptedCaptioner


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


def test_useless_and_senseless_settings_are_refused():
    with pytest.raises(ValueError, match=r"'coca' has no use for prompt; the settings it takes"):
        load_captioner("coca:x", CaptionerSettings(prompt="say"))
    with pytest.raises(ValueError, match="top_p must be above 0"):
        load_captioner("coca:x", CaptionerSettings(top_p=2.0))
