"""Pictures that are read outside of training: to check files on, to inherit, to average."""

import pytest

from distill.inheriting import donor_batches
from distill.samples import real_samples
from reinforced_data import reinforce
from reinforced_data.testing import sample, tiny_teacher, write_source
from students.exporters.bundle import _check_target


def test_a_picture_that_cannot_be_decoded_is_left_out(tmp_path):
    samples = [dict(sample(number)) for number in range(4)]
    samples[1]["png"] = samples[1]["png"][:60]
    write_source(tmp_path / "source", samples)
    assert len(real_samples(str(tmp_path / "source"), 9)) == 3
    assert len(real_samples(str(tmp_path / "source"), 2)) == 2
    write_source(tmp_path / "broken", samples[1:2])
    with pytest.raises(ValueError, match=r"no picture of .*broken can be read"):
        real_samples(str(tmp_path / "broken"), 2)


def test_a_donor_is_measured_on_the_pictures_of_a_store_at_a_url(tmp_path):
    source = tmp_path / "source"
    write_source(source, 5)
    store = f"memory://{tmp_path.name}/store"
    reinforce(source, store, teachers=(), num_views=1, progress=False)
    for data in (store, str(source), f"{source}/{{00000..00000}}.tar"):
        ((pixels, tokens),) = donor_batches(tiny_teacher(), data)
        assert len(pixels) == len(tokens) == 5


@pytest.mark.parametrize(
    "content",
    ["{}", "[1]", "no JSON", '{"towers": {"image": {"file": "image.onnx"}}}', '{"towers": []}'],
)
def test_a_folder_with_another_s_metadata_is_no_earlier_export(tmp_path, content):
    (tmp_path / "metadata.json").write_text(content)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no earlier export"):
        _check_target(tmp_path, None)
