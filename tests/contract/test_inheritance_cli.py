"""`distill inherit`, and runs whose configuration names a donor."""

import json

import open_clip
import pytest
import torch

from distill.cli import main
from distill.config import StudentConfig
from distill.starting import build_from_config
from reinforced_data import ViewPolicy, open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import StudentSpec, TextSpec, apply_plan, build_student, load_student
from students.inheritance import load_plan


def spec(width: int, text: int) -> StudentSpec:
    return StudentSpec(
        image=f"smallconv-{width}",
        text=TextSpec(width=text, layers=2, heads=text // 16, context_length=8),
        embed_dim=16,
        image_size=16,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A donor twice as wide as the student, a source and a store."""
    folder = tmp_path_factory.mktemp("inherit")
    torch.manual_seed(0)
    build_student(spec(8, 64), tokenizer=TOKENIZER, name="donor").save(folder / "donor")
    build_student(spec(4, 32), tokenizer=TOKENIZER, name="small").save(folder / "small")
    write_source(folder / "source", 12, samples_per_shard=6)
    views = ViewPolicy(num_ops=0)
    reinforce(
        folder / "source",
        folder / "store",
        teachers=[tiny_teacher()],
        num_views=1,
        policy=views,
        progress=False,
    )
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_plan_then_inherit(place, capsys, tmp_path):
    asked = ("inherit", place / "donor", place / "small", tmp_path)
    code, planned = run(capsys, *asked, "--plan-only")
    assert code == 0 and planned["inherited"] == 1 and not planned["saved"]
    assert [path.name for path in tmp_path.iterdir()] == ["inheritance.json"]
    code, done = run(capsys, *asked)
    assert code == 0 and done["saved"] and done["coverage"] == planned["coverage"]
    student = load_student(place / "small")
    apply_plan(load_plan(tmp_path / "inheritance.json"), student, load_student(place / "donor"))
    saved = load_student(tmp_path).module.state_dict()
    for key, tensor in student.module.state_dict().items():
        assert torch.equal(saved[key], tensor), key


@pytest.mark.parametrize("data", ["source", "store"])
def test_measured_on_data(place, capsys, tmp_path, data):
    asked = ("inherit", place / "donor", place / "small", tmp_path, "--selector", "taylor")
    code, done = run(capsys, *asked, "--depth", "similarity", "--data", place / data)
    assert code == 0 and done["inherited"] == 1
    chosen = load_plan(tmp_path / "inheritance.json").towers["text"].axes["hidden"]
    assert chosen.selector == "taylor" and len(chosen.indices) == 32


def test_the_table_names_what_was_chosen(place, capsys, tmp_path):
    assert main(["inherit", str(place / "donor"), str(place / "small"), str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "hidden 64 -> 32" in printed and "100.0% of small starts from donor" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--selector", "taylr"], "did you mean 'taylor'?"),
        (["--selector", "activation"], "--data"),
        (["--depth", "similarity"], "--data"),
    ],
)
def test_wrong_input_ends_with_2_and_writes_nothing(place, capsys, tmp_path, arguments, message):
    out = tmp_path / "out"
    asked = ["inherit", place / "donor", place / "small", out, *arguments]
    code, told = run(capsys, *asked)
    assert code == 2 and message in told["error"] and not out.exists()


@pytest.mark.slow
def test_stock_open_clip_loads_what_inherited(place, capsys, tmp_path):
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 512, "width": 32, "heads": 2, "layers": 2}
    for name, scale in (("inherit-wide", 2), ("inherit-narrow", 1)):
        vision = {**sizes, "width": scale * sizes["width"]}
        texts = {**text, "width": scale * text["width"], "heads": scale * text["heads"]}
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": texts}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    build_student("inherit-wide").save(tmp_path / "donor")
    code, done = run(capsys, "inherit", tmp_path / "donor", "inherit-narrow", tmp_path / "out")
    assert code == 0 and done["inherited"] == 1
    stock = open_clip.create_model(
        "inherit-narrow",
        pretrained=str(tmp_path / "out" / "model.safetensors"),
        force_custom_text=True,
    ).eval()
    ours = load_student(tmp_path / "out")
    tokens, pixels = torch.randint(0, 512, (3, 8)), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        image, texts = stock(pixels, tokens)[:2]
        torch.testing.assert_close(image, ours.encode_image(pixels))
        torch.testing.assert_close(texts, ours.encode_text(tokens))


def test_a_run_starts_from_its_donor(place):
    dataset = open_dataset(place / "store")
    config = StudentConfig(name="demo-student", donor=str(place / "donor"), selector="activation")
    student = build_from_config(config, dataset)
    donor = load_student(place / "donor")
    assert torch.equal(student.logit_scale, donor.logit_scale)
    again = build_from_config(config, dataset).module.state_dict()
    assert all(torch.equal(again[k], v) for k, v in student.module.state_dict().items())
    alone = build_from_config(StudentConfig(name="demo-student"), dataset).module.state_dict()
    assert not torch.equal(alone["visual.features.0.weight"], again["visual.features.0.weight"])


def test_two_donors_are_refused(place):
    dataset = open_dataset(place / "store")
    both = StudentConfig(name="demo-student", donor="one", text_from="two")
    with pytest.raises(ValueError, match="give one of the two"):
        build_from_config(both, dataset)
    for field in ("donor", "text_from"):
        trained = StudentConfig(name=str(place / "small"), **{field: str(place / "donor")})
        with pytest.raises(ValueError, match=f"student.{field}=.* would replace the weights"):
            build_from_config(trained, dataset)
