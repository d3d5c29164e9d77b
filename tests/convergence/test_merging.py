"""WiSE-FT and soups: ends bit for bit, means exact, choices made on held-out data alone."""

import json

import pytest
import torch
from PIL import Image

import distill
from distill.averaging import average
from distill.cli import main
from reinforced_data.testing import TOKENIZER, encoded, sample, write_source
from students import StudentSpec, TextSpec, build_student, load_student

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
TEXT = TextSpec(width=16, layers=1, heads=2, context_length=8)


def tiny(seed, image="smallconv-4", width=16):
    torch.manual_seed(seed)
    spec = StudentSpec(image=image, text=TEXT, embed_dim=width, image_size=16)
    return build_student(spec, tokenizer=TOKENIZER, name=f"tiny-{seed}")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Validation, test and training pictures."""
    folder = tmp_path_factory.mktemp("splits")

    def write(name, first):
        samples = []
        for number in range(first, first + 12):
            word = list(COLOURS)[number % 3]
            shade = tuple(min(255, channel + number) for channel in COLOURS[word])
            picture = encoded(Image.new("RGB", (24, 16), shade))
            samples.append(sample(number, png=picture, txt=f"a {word} picture", cls=word))
        write_source(folder / name, samples, samples_per_shard=12)
        return str(folder / name)

    return {name: write(name, 20 * i) for i, name in enumerate(("val", "test", "train"))}


def state(student):
    return student.module.state_dict()


def test_one_weight_alone_gives_back_the_bits_and_a_mean_is_the_mean():
    one, two = tiny(1), tiny(2)
    for weights, expected in (((1.0, 0.0), one), ((0.0, 1.0), two)):
        merged = state(average([one, two], weights))
        assert all(torch.equal(merged[n], v) for n, v in state(expected).items())
    merged = state(average([one, two], (0.25, 0.75)))
    for name, value in state(one).items():
        if value.is_floating_point():
            expected = 0.25 * value.double() + 0.75 * state(two)[name].double()
            assert torch.equal(merged[name], expected.to(value.dtype)), name


def test_a_linear_students_embeddings_go_straight_from_one_to_the_other():
    from reinforced_data.testing import TinyEncoder

    one, two = (
        build_student(TinyEncoder(seed=s), image_size=16, tokenizer=TOKENIZER) for s in (1, 2)
    )
    pixels = torch.randn(3, 3, 16, 16)
    between = average([one, two], (0.3, 0.7)).module.encode_image(pixels)
    expected = 0.3 * one.module.encode_image(pixels) + 0.7 * two.module.encode_image(pixels)
    torch.testing.assert_close(between, expected)


def test_the_sweep_chooses_by_validation_and_reports_once(splits, tmp_path):
    students = [tiny(1), tiny(2)]
    result = distill.merge(
        students,
        validation=splits["val"],
        statistics_on=splits["train"],
        alphas=(0.0, 0.5, 1.0),
        report_on=splits["test"],
        out=tmp_path / "out",
    )
    scores = [row["metrics"]["top1"] for row in result.tried]
    assert [row["weights"] for row in result.tried] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    best = next(row for row in result.tried if row["metrics"]["top1"] == max(scores))
    assert result.metric == "top1" and result.weights == best["weights"]
    assert result.report["samples"] == 12
    saved = load_student(tmp_path / "out")
    assert all(torch.equal(state(saved)[n], v) for n, v in state(result.student).items())
    assert distill.evaluate(saved, splits["val"])["top1"] == max(scores)


def test_statistics_of_a_mean_are_those_of_the_pictures_given(splits):
    one, two = tiny(1), tiny(2)
    result = distill.merge(
        [one, two], method="uniform", validation=splits["val"], statistics_on=splits["train"]
    )
    norm = result.student.module.visual.features[1]
    seen = {}
    hook = norm.register_forward_hook(lambda _, inputs, __: seen.update(x=inputs[0]))
    from distill.averaging import _batches

    (batch,) = _batches(result.student, splits["train"], 99)
    result.student.eval().module.encode_image(batch["pixels"])
    hook.remove()
    torch.testing.assert_close(norm.running_mean, seen["x"].mean((0, 2, 3)))


def test_a_greedy_soup_is_no_worse_than_its_best_part(splits):
    result = distill.merge(
        [tiny(1), tiny(2), tiny(3)],
        method="greedy",
        validation=splits["val"],
        statistics_on=splits["train"],
    )
    scores = {row["weights"]: row["metrics"]["top1"] for row in result.tried}
    singles = [scores[w] for w in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))]
    assert scores[result.weights] >= max(singles)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": ""}, "has none"),
        ({"statistics_on": None}, "statistics_on=SHARDS"),
        ({"report_on": "val"}, "is in report_on too"),
        ({"alphas": (1.5,)}, "alphas must be between 0 and 1"),
        ({"metric": "top9"}, "is not measured on"),
    ],
)
def test_refused_a_merge_without_what_it_needs_is_refused(changes, message, splits):
    given = {"validation": splits["val"], "statistics_on": splits["train"]} | changes
    if given.get("report_on"):
        given["report_on"] = splits["val"]
    with pytest.raises(ValueError, match=message):
        distill.merge([tiny(1), tiny(2)], **given)


def test_refused_students_of_different_shapes_are_refused(splits):
    with pytest.raises(ValueError, match="differ in shape, such as"):
        distill.merge(
            [tiny(1), tiny(2, image="smallconv-6")],
            validation=splits["val"],
            statistics_on=splits["train"],
        )


def test_refused_three_students_have_no_line_between_them(splits):
    with pytest.raises(ValueError, match="wise-ft goes from one student to another"):
        distill.merge([tiny(1)] * 3, validation=splits["val"], statistics_on=splits["train"])


def test_refused_training_shards_are_not_held_out(splits, tmp_path):
    from reinforced_data import reinforce
    from reinforced_data.testing import tiny_teacher

    store = tmp_path / "store"
    reinforce(splits["train"], store, teachers=[tiny_teacher()], num_views=1, progress=False)
    for seed in (1, 2):
        tiny(seed).save(tmp_path / str(seed))
        (tmp_path / str(seed) / "config.json").write_text(
            json.dumps({"data": {"store": str(store)}})
        )
    with pytest.raises(ValueError, match="is in the training data of"):
        distill.merge(
            [tmp_path / "1", tmp_path / "2"],
            validation=splits["train"],
            statistics_on=splits["train"],
        )


def test_the_command_prints_saves_and_goes_on(splits, tmp_path, capsys):
    for seed in (1, 2):
        tiny(seed).save(tmp_path / str(seed))
    command = ["merge", str(tmp_path / "1"), str(tmp_path / "2"), "--out", str(tmp_path / "out")]
    command += ["--validation", splits["val"], "--statistics-on", splits["train"], "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["tried"]) == 11
    # As if it had been stopped: what is known is not measured again.
    known = tmp_path / "out" / "merge-tried.json"
    values = json.loads(known.read_text())
    for metrics in values["tried"].values():
        metrics["top1"] = 0.125
    known.write_text(json.dumps(values))
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert {row["metrics"]["top1"] for row in again["tried"]} == {0.125}
