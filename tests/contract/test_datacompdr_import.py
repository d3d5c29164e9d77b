"""DataCompDR, written here as Apple publishes it, becomes a store that a student learns from.

The published rows are those of two tiny teachers, so that an audit can embed everything again.
"""

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill import Objective, train
from distill.cli import main
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.feeding import batches
from distill.run_log import read_log
from reinforced_data import (
    CaptionPolicy,
    audit,
    import_datacompdr,
    open_dataset,
    read_shard,
    reinforce,
    repair,
)
from reinforced_data.datacompdr.importing import DATACOMPDR, PublishedTeacher
from reinforced_data.datacompdr.views import to_view
from reinforced_data.embedding import ImageEmbedder, embed_texts
from reinforced_data.reading.order import caption_id
from reinforced_data.shard_writer import write_shards
from reinforced_data.store.column_rows import ImageRows, TextRows, ViewRows
from reinforced_data.store.layout import open_store
from reinforced_data.testing import TOKENIZER, as_picture, encoded, picture, sample, tiny_teacher
from reinforced_data.views import render_view
from students import StudentSpec, TextSpec, build_student

WIDTH, HEIGHT, VIEWS = 40, 30, 3


@cache
def teachers() -> list:
    return [tiny_teacher("one", seed=1), tiny_teacher("two", seed=2, embed_dim=12)]


def parameters(number: int, size: tuple[int, int] = (WIDTH, HEIGHT), views: int = VIEWS) -> list:
    """Crop in pixels and two operations, as RandomResizedCrop and RandAugment draw them."""
    random = np.random.default_rng(number)
    found = []
    for _ in range(views):
        width, height = (int(random.integers(side // 2, side + 1)) for side in size)
        left = int(random.integers(0, size[0] - width + 1))
        top = int(random.integers(0, size[1] - height + 1))
        found.append([[top, left, height, width], [[9, -0.27], [3, -30.453]]])
    return found


def synthetic(number: int) -> list[str]:
    return [f"a dark picture of {number % 10}", f"{number % 7} is a light number {number // 3}"]


def embeddings(number: int, caption: str, aug: list, size=(WIDTH, HEIGHT)) -> dict[str, Any]:
    image, rows, texts = as_picture(picture(number, WIDTH, HEIGHT)), [], []
    for teacher in teachers():
        embedder = ImageEmbedder(teacher, 8)
        for parameter in aug:
            embedder.add(render_view(image, to_view(parameter, size), teacher.preprocess))
        rows.append(embedder.finish().unit)
        texts.append(embed_texts(teacher, [caption, *synthetic(number)], 8).unit)
    return {"image_emb": np.concatenate(rows, 1), "text_emb": np.concatenate(texts, 1)}


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def pth_gz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.tensor(rows).bfloat16() for name, rows in arrays.items()}, file)
    return gzip.compress(file.getvalue())


def published(number: int, pack=npz, **changes: Any) -> dict[str, Any]:
    """One sample as in Apple's shards: no picture, no caption."""
    image = encoded(picture(number, WIDTH, HEIGHT))
    aug = changes.pop("parameters", None) or parameters(number)
    arrays = changes.pop("arrays", None) or embeddings(number, caption(number), aug)
    about = {"uid": f"uid{number}", "sha256": hashlib.sha256(image).hexdigest()}
    members = {
        "__key__": f"apple{number:04d}",
        "url.txt": f"http://x/{number}.jpg",
        "syn.json": json.dumps({"syn_text": synthetic(number)}),
        "paug.json": json.dumps({"param_aug": json.dumps(aug)}),
        "pth.gz" if pack is pth_gz else "npz": pack(arrays),
        "json": json.dumps(about),
    }
    return {name: value for name, value in (members | changes).items() if value is not None}


def caption(number: int) -> str:
    return str(sample(number)["txt"])


def downloaded(number: int, **changes: Any) -> dict[str, Any]:
    """The same sample as somebody has downloaded it: other key, uid in the JSON."""
    image = encoded(picture(number, WIDTH, HEIGHT))
    about = json.dumps({"uid": f"uid{number}", "original_width": WIDTH, "original_height": HEIGHT})
    made = {"__key__": f"{number:08d}", "png": image, "txt": caption(number), "json": about}
    return {name: value for name, value in (made | changes).items() if value is not None}


def write(folder: Path, samples: Sequence[dict], per_shard: int = 5) -> str:
    write_shards(folder, samples, samples_per_shard=per_shard)
    return str(folder)


def imported(tmp_path: Path, apples: Sequence[dict], pictures: Sequence[dict], **settings: Any):
    tmp_path.mkdir(exist_ok=True)
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    return import_datacompdr(
        write(folder / "pictures", pictures),
        write(folder / "apple", apples, 4),
        tmp_path / "store",
        **{"num_views": VIEWS, "teachers": teachers(), "progress": False, **settings},
    )


@pytest.mark.parametrize(
    ("pack", "captions"),
    [(npz, CaptionPolicy(kind="mix", written=0.5)), (pth_gz, CaptionPolicy(kind="sum"))],
)
def test_a_student_learns_from_what_was_published(tmp_path, pack, captions):
    """In another order than the pictures; every row is where a live teacher puts it.

    The student reads the source's captions and the synthetic ones, mixed or both at once.
    """
    numbers = range(12)
    report = imported(
        tmp_path,
        [published(number, pack) for number in reversed(numbers)],
        [downloaded(number) for number in numbers],
        codec="float32",
    )
    assert (report.samples, report.published, report.same_bytes, report.shards) == (12, 12, 12, 3)
    assert report.skipped == {} and report.failed == {}
    found = audit(tmp_path / "store", teachers=teachers(), progress=False)
    assert found.problems == ()
    # Per teacher: image rows, rows of the original captions, rows of the synthetic ones.
    assert len(found.cosines) == 6
    torch.manual_seed(0)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    config = RunConfig(
        data=DataConfig(batch_size=12, num_workers=0, captions=captions),
        objective=Objective(contrastive=0.3, affinity=0.7),
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.01),
        schedule=ScheduleConfig(num_steps=30, warmup_steps=2),
        log_every=1,
        ema_decay=None,
    )
    student = build_student(spec, tokenizer=TOKENIZER)
    _check_both_captions_are_read(student, tmp_path / "store", config)
    out = tmp_path / "run"
    train(student, tmp_path / "store", recipe=config, out=out, show=False)
    # Lines of other kinds may stand between: a busy machine is warned of.
    losses = [line["loss/affinity"] for line in read_log(out) if "loss/affinity" in line]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def _check_both_captions_are_read(student, store, config) -> None:
    (batch,) = batches(open_dataset(store), student, config, first=0, last=1)
    own = {caption_id(caption(number)) for number in range(12)}
    written = {caption_id(text) for number in range(12) for text in synthetic(number)}
    read = [set(texts.caption_ids.tolist()) for texts in batch.texts]
    if config.data.captions.kind == "sum":
        assert len(read) == 2 and read[0] <= own and read[1] <= written
    else:
        assert len(read) == 1 and read[0] & own and read[0] & written
        assert read[0] <= own | written


def test_a_damaged_import_says_how_to_write_it_again_and_that_does(tmp_path):
    imported(tmp_path, [published(n) for n in range(12)], [downloaded(n) for n in range(12)])
    store = tmp_path / "store"
    for column in ("captions-syn", "views-"):
        (record,) = (store / "commits").glob(f"{column}*/00001.json")
        path = store / json.loads(record.read_text())["data"]
        path.write_bytes(path.read_bytes()[::-1])
    report = repair(store, teachers=teachers(), progress=False)
    assert report.redone == () and not report.audit.ok
    assert len(report.left) == 2
    assert all("was imported" in said and "distill import" in said for said in report.left)
    for column in ("captions-syn", "views-"):
        (record,) = (store / "commits").glob(f"{column}*/00001.json")
        record.unlink()
    again = import_datacompdr(
        tmp_path / "0/pictures", tmp_path / "0/apple", store,
        num_views=VIEWS, teachers=teachers(), progress=False,
    )  # fmt: skip
    assert (again.shards, again.shards_already_done) == (3, 2)
    assert audit(store, teachers=teachers(), progress=False).problems == ()


def live_rows(teacher, number: int) -> np.ndarray:
    """What a teacher says of a sample's published views, by another way than the store's."""
    image, embedder = as_picture(picture(number, WIDTH, HEIGHT)), ImageEmbedder(teacher, 8)
    for parameter in parameters(number):
        embedder.add(render_view(image, to_view(parameter, (WIDTH, HEIGHT)), teacher.preprocess))
    return embedder.finish().unit


def test_a_live_teacher_joins_the_published_views(tmp_path):
    """One more teacher is asked about Apple's own views, replayed on the pictures."""
    store, live = tmp_path / "store", tiny_teacher("three", seed=3)
    names = ("ViT-L-14/a", "ViT-L-14/b")
    dims = [teacher.embed_dim for teacher in teachers()]
    known = [
        PublishedTeacher(name=name, embed_dim=dim, logit_scale=9.0)
        for name, dim in zip(names, dims, strict=True)
    ]
    imported(
        tmp_path, [published(n) for n in range(12) if n != 7], [downloaded(n) for n in range(12)],
        teachers=known,
    )  # fmt: skip
    settings = {"teachers": live, "view_set": "datacompdr", "num_views": VIEWS, "codec": "float32"}
    source = tmp_path / "0/pictures"
    report = reinforce(source, store, **settings, progress=False)
    assert (report.shards, report.failed) == (3, {})
    opened = open_store(store)
    (column,) = [c for c in opened.columns("image_embeddings") if c.identity["teacher"] == "three"]
    (views,) = opened.columns("views")
    assert column.identity["hangs_on"] == views.name and "imported" in views.identity
    for number in range(12):
        rows = ImageRows(column, opened.rows(column, number // 5), VIEWS)
        assert rows.valid[number % 5] == (number != 7)  # 7 was not published: nothing to replay
        if number != 7:
            stored = np.stack([rows.encoded(number % 5, view) for view in range(VIEWS)])
            np.testing.assert_allclose(stored, live_rows(live, number), atol=1e-6)
    found = audit(store, teachers=live, progress=False)
    assert found.problems == () and len(found.cosines) == 2
    assert "three" in [t.name for t in open_dataset(store, view_set="datacompdr").teachers]


def test_what_a_live_teacher_cannot_ask_of_published_views_is_said(tmp_path):
    store, live = tmp_path / "store", tiny_teacher("three", seed=3)
    imported(tmp_path, [published(n) for n in range(12)], [downloaded(n) for n in range(12)])
    source, before = tmp_path / "0/pictures", sorted((tmp_path / "store/columns").iterdir())
    settings = {"teachers": live, "view_set": "datacompdr", "progress": False}
    with pytest.raises(ValueError, match=r"was imported.*has 3 views.*ask for 10.*--num-views 3"):
        reinforce(source, store, **settings)
    with pytest.raises(ValueError, match=r"was imported.*no policy and no seed"):
        reinforce(source, store, num_views=VIEWS, seed=1, **settings)
    assert sorted((store / "columns").iterdir()) == before
    # A shard whose import has not finished: the others are done.
    (record,) = (store / "commits").glob("views-datacompdr*/00001.json")
    record.unlink()
    report = reinforce(source, store, num_views=VIEWS, **settings)
    ((shard, said),) = report.failed.items()
    assert shard == open_store(store).sources[1] and "`distill import`" in said
    import_datacompdr(
        source, tmp_path / "0/apple", store, num_views=VIEWS, teachers=teachers(), progress=False
    )
    report = reinforce(source, store, num_views=VIEWS, **settings)
    assert (report.shards, report.shards_already_done, report.failed) == (3, 2, {})
    assert audit(store, teachers=[live, *teachers()], progress=False).ok


def test_the_store_says_what_it_is(tmp_path):
    random = np.random.default_rng(0)
    apples = []
    for number in range(4):
        sizes = {"image_emb": (30, 1536), "text_emb": (3, 1536)}
        rows = {name: random.normal(size=size).astype("f4") for name, size in sizes.items()}
        apples.append(published(number, arrays=rows, parameters=parameters(number, views=30)))
    pictures = [downloaded(number) for number in range(4)]
    settings = {"teachers": DATACOMPDR, "num_views": 5, "codec": "float16"}
    report = imported(tmp_path, apples, pictures, **settings)
    assert report.skipped == {}
    dataset = open_dataset(tmp_path / "store")
    assert (dataset.view_set, dataset.num_views, dataset.num_samples) == ("datacompdr", 5, 4)
    names = [(t.name, t.embed_dim, t.logit_scale, t.kind) for t in dataset.teachers]
    assert sorted(names) == [
        ("ViT-L-14/datacomp_xl_s13b_b90k", 768, 100.0, "softmax"),
        ("ViT-L-14/openai", 768, 100.0, "softmax"),
    ]
    sets = {c.identity["set"]: c for c in dataset.columns if c.kind == "captions"}
    texts = dataset.store.rows(sets["syn"], 0)["captions"].to_pylist()
    assert texts == [synthetic(number) for number in range(4)]
    views = ViewRows(*_rows(dataset, "views"))
    crops = [view.crop for view in views.views(2)]
    expected = [to_view(p, (WIDTH, HEIGHT)).crop for p in parameters(2, views=30)[:5]]
    assert crops == expected
    assert audit(tmp_path / "store", progress=False).ok
    column = next(c for c in dataset.columns if c.name.startswith("text-vit-l-14-openai-syn"))
    first = TextRows(column, dataset.store.rows(column, 0)).encoded(1, 0)
    wanted = apples_row(apples[1], "text_emb", 1, slice(0, 768))
    np.testing.assert_allclose(first.astype(np.float32), wanted, atol=1e-3)


def _rows(dataset: Any, kind: str) -> tuple:
    column = next(c for c in dataset.columns if c.kind == kind)
    return column, dataset.store.rows(column, 0)


def apples_row(apple: dict, name: str, row: int, own: slice) -> np.ndarray:
    found = np.load(io.BytesIO(apple["npz"]))[name][row, own]
    return found / np.linalg.norm(found)


def test_shards_that_were_put_together_are_their_own_members(tmp_path):
    """As Apple's README joins them: one key, picture and caption beside what was published."""
    both = []
    for number in range(5):
        apple = published(number)
        both.append({**downloaded(number), **apple, "json": apple["json"]})
    folder = write(tmp_path / "both", both)
    report = import_datacompdr(
        folder, folder, tmp_path / "store", num_views=2, teachers=teachers(), progress=False
    )
    assert (report.samples, report.skipped) == (5, {})
    assert audit(tmp_path / "store", teachers=teachers(), progress=False).ok


def test_samples_are_joined_by_their_keys_where_there_is_no_uid(tmp_path):
    apples = [published(n, json=None, __key__=f"k{n}") for n in range(3)]
    pictures = [downloaded(n, json=None, __key__=f"k{n}") for n in range(3)]
    report = imported(tmp_path, apples, pictures)
    assert (report.skipped, report.same_bytes) == ({}, 0)


def test_mobileclip2_keeps_synthetic_rows_apart(tmp_path):
    apples = []
    for number in range(3):
        arrays = embeddings(number, caption(number), parameters(number))
        text = arrays["text_emb"]
        apart = {**arrays, "text_emb": text[:1], "syn_text_emb": text[1:]}
        apples.append(published(number, arrays=apart))
    assert imported(tmp_path, apples, [downloaded(n) for n in range(3)]).skipped == {}
    assert len(audit(tmp_path / "store", teachers=teachers(), progress=False).cosines) == 6


def test_crops_are_of_the_original_where_that_is_said(tmp_path):
    """Pictures were downsized after they were published: fractions carry over, pixels do not."""
    big = (4 * WIDTH, 4 * HEIGHT)
    about = {"original_width": big[0], "original_height": big[1]}
    apples, pictures = [], []
    for number in range(4):
        aug = parameters(number, big)
        arrays = embeddings(number, caption(number), aug, big)
        uid = json.dumps({"uid": f"uid{number}"})
        apples.append(published(number, arrays=arrays, parameters=aug, json=uid))
        pictures.append(downloaded(number, json=json.dumps({"uid": f"uid{number}", **about})))
    with pytest.raises(ValueError, match=r"4 x crop-outside-picture.*crops_of='original'"):
        imported(tmp_path, apples, pictures)
    (tmp_path / "store").rename(tmp_path / "failed")
    assert imported(tmp_path, apples, pictures, crops_of="original").skipped == {}
    assert audit(tmp_path / "store", teachers=teachers(), progress=False).ok


def test_what_cannot_be_used_is_counted_once_and_the_rest_is_whole(tmp_path):
    broken = encoded(picture(0))[:60]
    nan = embeddings(3, caption(3), parameters(3))
    nan["image_emb"][1, 20] = np.nan
    few = parameters(9)[:2]
    apples = [
        published(0),
        published(1, npz=b"PK not a zip"),
        published(2, **{"paug.json": "{}"}),
        published(3, arrays=nan),
        published(4, json=json.dumps({"uid": "uid4", "sha256": "0" * 64})),
        published(5, npz=None),
        published(7),
        published(8),
        published(9, parameters=few, arrays=embeddings(9, caption(9), few)),
        published(10, **{"syn.json": json.dumps({"syn_text": [1]})}),
    ]
    about = json.dumps({"uid": "uid4", "sha256": "1" * 64})
    changes: dict[int, dict] = {4: {"json": about}, 7: {"png": broken}, 8: {"txt": None}}
    pictures = [downloaded(number, **changes.get(number, {})) for number in range(11)]
    report = imported(tmp_path, apples, pictures)
    assert report.skipped == {
        "bad-embeddings": 1,
        "bad-parameters": 1,
        "non-finite-embedding": 1,
        "picture-changed": 1,
        "no-embeddings": 1,
        "not-published": 1,
        "undecodable": 1,
        "no-caption": 1,
        "too-few-views": 1,
        "bad-synthetic-captions": 1,
    }
    assert report.examples["not-published"][0].startswith("'00000006' in 00001.tar (captions-syn-")
    found = audit(tmp_path / "store", teachers=teachers(), progress=False)
    assert found.problems == ()
    assert open_dataset(tmp_path / "store").num_samples == 1


def test_two_data_sets_that_do_not_belong_together(tmp_path):
    apples = [published(number) for number in range(4)]
    pictures = [downloaded(n, json=json.dumps({"uid": f"other{n}"})) for n in range(5)]
    with pytest.raises(ValueError, match=r"5 x not-published: nothing was published under these"):
        imported(tmp_path, apples, pictures)
    with pytest.raises(ValueError, match=r"hold no published samples: none has a paug.json"):
        imported(tmp_path / "other", pictures, pictures)


def test_another_width_is_refused_with_what_it_is(tmp_path):
    wide = (*teachers(), PublishedTeacher(name="x/y", embed_dim=5, logit_scale=1.0))
    with pytest.raises(ValueError, match=r"4 x bad-embeddings"):
        imported(
            tmp_path,
            [published(n) for n in range(4)],
            [downloaded(n) for n in range(4)],
            teachers=wide,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_views": 0}, "at least 1"),
        ({"codec": "pq64"}, "no codec for an import 'pq64'"),
    ],
)
def test_wrong_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, [published(0)], [downloaded(0)], **change)


def test_the_same_call_goes_on_and_other_settings_do_not(tmp_path):
    apples = [published(n) for n in range(6)]
    pictures = [downloaded(n) for n in range(6)]
    imported(tmp_path, apples, pictures)
    again = import_datacompdr(
        tmp_path / "0/pictures", tmp_path / "0/apple", tmp_path / "store",
        num_views=VIEWS, teachers=teachers(), progress=False,
    )  # fmt: skip
    assert (again.shards, again.shards_already_done) == (2, 2)
    with pytest.raises(ValueError, match="another view set 'datacompdr' already"):
        import_datacompdr(
            tmp_path / "0/pictures", tmp_path / "0/apple", tmp_path / "store",
            num_views=2, teachers=teachers(), progress=False,
        )  # fmt: skip


def test_the_command(tmp_path, capsys, monkeypatch):
    random = np.random.default_rng(0)
    rows = {"image_emb": random.normal(size=(10, 1536)), "text_emb": random.normal(size=(3, 1536))}
    rows = {name: value.astype(np.float32) for name, value in rows.items()}
    apples = [published(n, arrays=rows, parameters=parameters(n, views=10)) for n in range(4)]
    pictures = write(tmp_path / "pictures", [downloaded(n) for n in range(5)])
    command = ["import", pictures, str(tmp_path / "store")]
    command += ["--datacompdr", write(tmp_path / "apple", apples)]
    assert main(command) == 3
    said = capsys.readouterr().out
    assert "5 samples in 1 shards" in said and "1 x not-published: '00000004' in 00000.tar" in said
    assert main([*command, "--json"]) == 3
    values = json.loads(capsys.readouterr().out)
    assert (values["samples"], values["shards_already_done"]) == (5, 1)
    assert len(list(read_shard(f"{pictures}/00000.tar"))) == 5
    # A URL is a store elsewhere, not a folder of that name here.
    monkeypatch.chdir(tmp_path)
    assert main([*command[:2], "memory://imported/store", *command[3:]]) == 3
    assert open_dataset("memory://imported/store").num_samples == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple", "pictures", "store"]
