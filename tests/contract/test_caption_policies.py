"""What training reads under each caption policy, and that the teachers' rows are those texts'."""

import dataclasses
import hashlib

import pytest
import torch

from distill import train
from distill.config import DataConfig, RunConfig, ScheduleConfig
from distill.objective import Objective
from reinforced_data import CaptionPolicy, ViewPolicy, caption, open_dataset, reinforce
from reinforced_data.reading.order import caption_id
from reinforced_data.testing import TOKENIZER, TinyEncoder, sample, tiny_teacher, write_source
from students import build_student
from teachers import Preprocess

STUDENT = Preprocess(image_size=8, interpolation="bilinear")
QUIET = {"progress": False}
MIX = CaptionPolicy(kind="mix", sets=("first",), written=0.5)


class Counting:
    """Writes `SET KEY NUMBER`; has nothing to say about every fourth sample."""

    needs_image, licence = False, None

    def __init__(self, name):
        self.name = name
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()

    def caption(self, requests, num_captions):
        return [
            [f"{self.name} {r.key} {n}" for n in range(num_captions) if int(r.key) % 4]
            for r in requests
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """40 samples, a store with a teacher, and two written sets; every caption by its id."""
    folder = tmp_path_factory.mktemp("world")
    source = write_source(folder / "source", 40, samples_per_shard=16)
    teacher = tiny_teacher()
    settings = {"num_views": 2, "policy": ViewPolicy(num_ops=0), "codec": "float32"}
    reinforce(source, folder / "store", teachers=teacher, **settings, **QUIET)
    for name in ("first", "second"):
        caption(
            folder / "store",
            Counting(name),
            name=name,
            num_captions=2,
            teachers=teacher,
            **QUIET,
        )
    texts = [sample(number)["txt"] for number in range(40)]
    texts += [f"{s} {k:04d} {n}" for s in ("first", "second") for k in range(40) for n in range(2)]
    return folder / "store", teacher, {caption_id(text): text for text in texts}


def read(path, policy, num_steps=4, **options):
    settings = {
        "preprocess": STUDENT,
        "tokenizer": TOKENIZER,
        "batch_size": 10,
        "num_steps": num_steps,
        "window_shards": 2,
        "captions": policy,
    }
    return list(open_dataset(path).loader(**(settings | options)))


def texts_of(batches, world, place=0):
    """Key -> its text, for every sample of the batches."""
    ids = world[2]
    return {
        (batch.step, key): ids[int(number)]
        for batch in batches
        for key, number in zip(batch.keys, batch.texts[place].caption_ids, strict=True)
    }


def set_of(text):
    return text.split()[0] if text.split()[0] in ("first", "second") else "original"


def bits(batches, place=0):
    tensors = []
    for batch in batches:
        one = batch.texts[place]
        tensors += [batch.pixels, one.tokens, one.caption_ids]
        tensors += [part for rows in one.teachers for part in (rows.image, rows.text)]
    return tensors


def assert_same(left, right):
    assert len(left) == len(right)
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_mix_without_written_captions_is_the_original_bit_for_bit(world):
    plain = read(world[0], CaptionPolicy())
    never = read(world[0], CaptionPolicy(kind="mix", written=0.0))
    assert_same(bits(plain), bits(never))
    assert {set_of(text) for text in texts_of(plain, world).values()} == {"original"}


def test_a_mix_of_written_captions_alone_has_them_wherever_there_are_any(world):
    always = CaptionPolicy(kind="mix", sets=("second",), written=1.0)
    for (_, key), text in texts_of(read(world[0], always), world).items():
        if int(key) % 4:
            assert text.startswith(f"second {key} ")
        else:
            assert set_of(text) == "original"


def test_in_between_every_set_has_its_share(world):
    policy = CaptionPolicy(kind="weighted", sets=("second", "first"), weights=(0.2, 0.5, 0.3))
    found = texts_of(read(world[0], policy, num_steps=60), world)
    drawn = [set_of(text) for (_, key), text in found.items() if int(key) % 4]
    assert len(drawn) == 450
    for name, share in (("original", 0.2), ("second", 0.5), ("first", 0.3)):
        # Five standard deviations.
        assert abs(drawn.count(name) / 450 - share) < 5 * (share * (1 - share) / 450) ** 0.5
    assert {text.split()[-1] for text in found.values() if set_of(text) == "first"} == {"0", "1"}


def test_uniform_reads_all_sets_of_the_store(world):
    found = texts_of(read(world[0], CaptionPolicy(kind="uniform"), num_steps=12), world)
    assert {set_of(text) for text in found.values()} == {"original", "first", "second"}


@pytest.mark.parametrize("policy", [MIX, CaptionPolicy(kind="sum")], ids=lambda p: p.kind)
def test_the_teachers_rows_are_those_of_the_texts_that_were_chosen(world, policy):
    _, teacher, ids = world
    for batch in read(world[0], policy):
        for one in batch.texts:
            texts = [ids[int(number)] for number in one.caption_ids]
            torch.testing.assert_close(one.tokens, TOKENIZER(texts))
            (rows,) = one.teachers
            torch.testing.assert_close(rows.text, teacher.encode_text(texts).detach())


def test_sum_reads_the_original_and_a_written_text_of_each_picture(world):
    both = read(world[0], CaptionPolicy(kind="sum"))
    assert_same(bits(both), bits(read(world[0], CaptionPolicy())))
    seen = set()
    for (_, key), text in texts_of(both, world, place=1).items():
        # A sample without a written caption has its original twice.
        seen.add(set_of(text))
        assert (set_of(text) == "original") == (int(key) % 4 == 0)
    assert seen == {"original", "first", "second"}
    for batch in both:
        assert batch.texts[0].teachers[0].image is batch.texts[1].teachers[0].image
        moved = batch.to("cpu")
        assert len(moved.texts) == 2 and moved.tokens is moved.texts[0].tokens


def test_choices_are_those_of_seed_epoch_and_key(world):
    whole = texts_of(read(world[0], MIX, num_steps=12), world)
    rest = texts_of(read(world[0], MIX, num_steps=12, start_step=7, num_workers=1), world)
    assert rest.items() <= whole.items()
    halves = [read(world[0], MIX, num_steps=12, rank=rank, world_size=2) for rank in (0, 1)]
    assert texts_of(halves[0], world) | texts_of(halves[1], world) == whole
    other = texts_of(read(world[0], MIX, num_steps=12, seed=1), world)
    assert other != whole
    # The view of a sample does not depend on what is said about it.
    for left, right in zip(read(world[0], MIX), read(world[0], CaptionPolicy()), strict=True):
        assert torch.equal(left.pixels, right.pixels)


def test_pictures_without_texts_train_on_written_ones(tmp_path):
    source = write_source(tmp_path / "source", [sample(n, txt="") for n in range(12)])
    reinforce(source, tmp_path / "store", teachers=tiny_teacher(), num_views=1, **QUIET)
    caption(
        tmp_path / "store",
        Counting("first"),
        name="first",
        num_captions=1,
        teachers=tiny_teacher(),
        **QUIET,
    )
    with pytest.raises(ValueError, match="there are 0 that can be used"):
        read(tmp_path / "store", CaptionPolicy(), batch_size=3)
    for policy in (MIX, CaptionPolicy(kind="sum"), CaptionPolicy(kind="mix", written=1.0)):
        batches = read(tmp_path / "store", policy, num_steps=3, batch_size=3)
        # Three samples in twelve have no caption at all.
        assert sorted(key for batch in batches for key in batch.keys) == [
            f"{n:04d}" for n in range(12) if n % 4
        ]


def test_a_set_that_a_teacher_has_not_read_says_what_to_do(world):
    path = world[0]
    caption(path, Counting("third"), name="third", num_captions=1, **QUIET)
    policy = CaptionPolicy(kind="uniform", sets=("third",))
    with pytest.raises(ValueError, match=r"'tiny' has no rows for the caption set 'third'.*--name"):
        read(path, policy)
    assert len(read(path, policy, teachers=())) == 4
    with pytest.raises(ValueError, match="no caption set 'thrid'; did you mean 'third'"):
        read(path, CaptionPolicy(kind="uniform", sets=("thrid",)))
    for file in (path / "columns").glob("captions-third-*"):
        file.unlink()


def test_shards_that_a_set_lacks_are_left_out_of_what_reads_it(world):
    path = world[0]
    (record,) = (path / "commits").glob("captions-second-*/00001.json")
    before = record.read_bytes()
    record.unlink()
    try:
        policy = CaptionPolicy(kind="uniform", sets=("second",))
        keys = {key for batch in read(path, policy, num_steps=6) for key in batch.keys}
        assert keys.isdisjoint(f"{number:04d}" for number in range(16, 32))
        assert any("captions-second" in name for name in open_dataset(path).missing)
        assert len({k for batch in read(path, CaptionPolicy()) for k in batch.keys}) == 40
    finally:
        record.write_bytes(before)


# ------------------------------------------------------------------------------- training


def trained(world, policy, **data):
    config = RunConfig(
        data=DataConfig(batch_size=10, num_workers=0, captions=policy, **data),
        objective=Objective(contrastive=0.5, affinity=0.5),
        schedule=ScheduleConfig(num_steps=3, warmup_steps=1),
    )
    student = build_student(TinyEncoder(seed=5), image_size=8, tokenizer=TOKENIZER)
    train(student, str(world[0]), recipe=config, show=False)
    return [parameter.detach().clone() for parameter in student.parameters()]


def test_training_reads_what_the_configuration_says(world):
    plain = trained(world, CaptionPolicy())
    assert_same(plain, trained(world, CaptionPolicy(kind="mix", written=0.0)))
    for policy in (MIX, CaptionPolicy(kind="sum")):
        found = trained(world, policy)
        assert any(not torch.equal(a, b) for a, b in zip(plain, found, strict=True))
        assert all(value.isfinite().all() for value in found)


def test_a_sum_in_micro_batches_is_that_of_the_whole_batch(world):
    policy = CaptionPolicy(kind="sum")
    for whole, cached in zip(
        trained(world, policy), trained(world, policy, micro_batch_size=4), strict=True
    ):
        torch.testing.assert_close(cached, whole, rtol=1e-4, atol=1e-6)


def test_a_policy_survives_the_configuration_file():
    policy = CaptionPolicy(kind="weighted", sets=("a",), weights=(1.0, 2.0))
    config = RunConfig(data=DataConfig(captions=policy))
    values = config.as_json()
    values["data"]["captions"] |= {"sets": ["a"], "weights": [1.0, 2.0]}
    assert RunConfig.from_json(values) == config
    del values["data"]["captions"]
    assert RunConfig.from_json(values) == dataclasses.replace(config, data=DataConfig())
