"""`load_captioner`: specs, settings, and what is answered to wrong ones."""

import pytest

from teachers import CaptionerSettings, load_captioner
from teachers.captioners.catalog import CAPTIONERS


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
        ("coca:./no-such-folder", "no folder no-such-folder"),
    ],
)
def test_wrong_specs_say_what_to_do(spec, message):
    with pytest.raises(ValueError, match=message):
        load_captioner(spec)


def test_every_line_begins_with_its_name():
    for name, entry in CAPTIONERS.items():
        assert entry.form.partition(":")[0] == name and entry.summary


def test_useless_and_senseless_settings_are_refused():
    with pytest.raises(ValueError, match=r"'coca' has no use for prompt; the settings it takes"):
        load_captioner("coca:x", CaptionerSettings(prompt="say"))
    with pytest.raises(ValueError, match="top_p must be above 0"):
        load_captioner("coca:x", CaptionerSettings(top_p=2.0))
