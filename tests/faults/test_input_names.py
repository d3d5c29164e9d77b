"""Wherever a name is asked for, a wrong one is answered with the nearest right one."""

import pytest

from distill.accelerate_configs import config_path
from distill.evaluation import evaluate
from distill.recipes import find_recipe
from reinforced_data import ViewPolicy, open_dataset, open_source, pack, reinforce
from reinforced_data.codecs.of_columns import check_codec
from reinforced_data.testing import TOKENIZER, sample, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student, export
from teachers import Preprocess, load_teacher
from teachers.teacher import check_precision


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A source with labels, and a store of one teacher."""
    folder = tmp_path_factory.mktemp("names")
    samples = [sample(number, cls=("cat", "dog")[number % 2]) for number in range(6)]
    write_source(folder / "source", samples)
    (folder / "table.csv").write_text("path,caption\na.jpg,a cat\n")
    reinforce(
        folder / "source",
        folder / "store",
        teachers=tiny_teacher("big-teacher"),
        num_views=2,
        progress=False,
    )
    return folder


def small(image: str):
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image=image, text=text, embed_dim=16, image_size=16)
    return build_student(spec, tokenizer=TOKENIZER)


def loader(place, name):
    look = Preprocess(image_size=16)
    return open_dataset(place / "store").loader(
        preprocess=look, tokenizer=TOKENIZER, batch_size=2, num_steps=1, teachers=[name]
    )


WRONG = {
    "teacher": (lambda place: load_teacher("ViT-B16/openai"), "ViT-B-16"),
    "weights of a teacher": (lambda place: load_teacher("ViT-B-16/opnai"), "openai"),
    "precision": (lambda place: check_precision("in8"), "int8"),
    "student": (lambda place: build_student("MobileCLIP2S0"), "MobileCLIP2-S0"),
    "weights of a student": (lambda place: build_student("MobileCLIP2-S0/dfndr2"), "dfndr2b"),
    "image tower": (lambda place: small("fastvit_mc0"), "fastvit_mci0"),
    "export format": (lambda place: export(small("smallconv-2"), place, formats=["onx"]), "onnx"),
    "recipe": (lambda place: find_recipe("mobileclip"), "mobileclip2"),
    "accelerate configuration": (lambda place: config_path("fsdp"), "fsdp2"),
    "codec": (lambda place: check_codec("flaot16"), "float16"),
    "operation": (lambda place: ViewPolicy(operations=("rotat",)), "rotate"),
    "stored teacher": (lambda place: loader(place, "big_teacher"), "big-teacher"),
    "table column": (
        lambda place: pack(place / "table.csv", place / "x", captions="capton"),
        "caption",
    ),
    "layout": (lambda place: pack(place / "table.csv", place / "x", layout="tabel"), "table"),
    "class": (
        lambda place: evaluate(tiny_teacher(), place / "source", classes=["cat", "doge"]),
        "doge",
    ),
    "templates": (
        lambda place: evaluate(tiny_teacher(), place / "source", templates="photos"),
        "photo",
    ),
    "task": (
        lambda place: evaluate(tiny_teacher(), place / "source", tasks=["retreival"]),
        "retrieval",
    ),
    "scheme": (lambda place: open_source("htps://example.com/a.tar"), "https"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_nearest_name_is_proposed(place, what):
    ask, near = WRONG[what]
    with pytest.raises(ValueError, match=rf"did you mean '{near}'\?"):
        ask(place)


@pytest.mark.parametrize(
    "source",
    [
        "pipe:touch {place}/ran; cat {place}/source/00000.tar",
        "pipe://touch {place}/ran",
        "PIPE:touch {place}/ran",
        "simplecache::pipe://touch {place}/ran",
        "exec:touch {place}/ran",
        "reference://::{place}/evil.json",
    ],
)
def test_sources_that_would_run_something_are_refused(place, source):
    source = source.format(place=place)
    for ask in (open_source, lambda given: reinforce(given, place / "new", teachers=())):
        with pytest.raises(ValueError, match="would run something, and shards are only ever read"):
            ask(source)
    assert not (place / "ran").exists() and not (place / "new").exists()


def test_a_scheme_without_its_package_says_which(place):
    with pytest.raises(ValueError, match=r"needs a package that is not installed: .*[Ii]nstall"):
        open_source("abfs://container/a.tar")


def test_a_missing_shard_among_many_is_named(place):
    with pytest.raises(ValueError, match=r"00002\.tar' does not exist.*brace pattern"):
        open_source(f"{place}/source/{{00000..00003}}.tar")
