"""`pack` gives numbers and ids their names: of a file, or ImageNet's, in every layout."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.cli import main
from reinforced_data.decoding import image_size
from reinforced_data.packing.class_names import open_class_names
from reinforced_data.packing.packing import pack
from reinforced_data.shard_writer import write_shards
from reinforced_data.source import open_source
from reinforced_data.testing import encoded, picture

NAMES = ("red fox", "kite (bird)")
IDS = ("n02119022", "n01608432")
NO_NAME = "label without a name"


def jpeg(number: int) -> bytes:
    return encoded(picture(number), "jpg")


# ----------------------------------------------------------------------------- the names


def test_imagenet_names_of_numbers_and_ids():
    names = open_class_names("imagenet")
    known = {"0": "tench", "207": "Golden Retriever", "999": "toilet paper"}
    known |= {"n01440764": "tench", "n02099601": "Golden Retriever", "n15075141": "toilet paper"}
    assert {label: names.find(label) for label in known} == known
    strange = ("1000", "-1", "n00000000", "n1440764", "tench", "", "1.0", "9" * 5000)
    assert [names.find(label) for label in strange] == [None] * 8
    # A number is the place of an id among the sorted ids.
    assert list(names.by_label) == sorted(names.by_label) and len(names.by_label) == 1000
    assert list(names.by_label.values()) == [names.find(str(place)) for place in range(1000)]


def test_imagenet_has_two_names_twice():
    names = open_class_names("imagenet")
    twice = {name for name, count in Counter(names.numbered).items() if count > 1}
    places = {name: [n for n, own in enumerate(names.numbered) if own == name] for name in twice}
    assert places == {"missile": [657, 744], "sunglasses": [836, 837]}
    assert names.find("n04355933") == names.find("n04356056") == "sunglasses"


def test_names_of_a_text_file_are_its_lines(tmp_path):
    # A line separator of Unicode is no new line, a line that is left empty keeps its number.
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\n\r\n big\u2028dog \nfox\n\n".encode())
    names = open_class_names(tmp_path / "names.txt")
    found = [names.find(label) for label in ("0", "1", "2", "03", "4", "cat")]
    assert found == ["cat", None, "big\u2028dog", "fox", None, None]


def test_names_of_a_json_object(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"7": " seven ", "n02119022": "red fox"}))
    names = open_class_names(tmp_path / "names.json")
    assert [names.find(label) for label in ("7", "n02119022", "0")] == ["seven", "red fox", None]


WRONG = {
    "gone.txt": (None, r"gone.txt cannot be read \(No such file.*or \"imagenet\""),
    "latin.txt": ("caf\u00e9".encode("latin-1"), "latin.txt is not UTF-8"),
    "blank.txt": (b" \n\n", "blank.txt names no class"),
    "list.json": (b'["cat"]', r"list.json needs an object .* got \[\"cat\"\]"),
    "empty.json": (b"{}", "empty.json needs an object"),
    "broken.json": (b"{", "broken.json is not JSON"),
    "number.json": (b'{"0": "cat", "1": 3}', "label '1' needs a name as text, got 3"),
    "nameless.json": (b'{"0": " "}', "label '0' needs a name as text, got ' '"),
}


@pytest.mark.parametrize("name", WRONG)
def test_input_of_names_is_refused_before_anything_is_written(tmp_path, name):
    content, says = WRONG[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"class_names: .*{says}"):
        pack(class_folders(tmp_path / "in", IDS), tmp_path / "out", class_names=tmp_path / name)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "in"}


# ---------------------------------------------------------------------------- the layouts


def class_folders(folder: Path, labels: tuple[str, ...]) -> Path:
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        (folder / label / "x.jpg").write_bytes(jpeg(number))
    return folder


def csv_table(folder: Path, labels: tuple[str, ...]) -> Path:
    class_folders(folder, labels)
    lines = [f"{label}/x.jpg,{label}" for label in labels]
    (folder / "t.csv").write_text("\n".join(["path,label", *lines]))
    return folder / "t.csv"


def parquet_table(folder: Path, labels: tuple[str, ...]) -> Path:
    folder.mkdir()
    pictures = [jpeg(number) for number in range(len(labels))]
    pq.write_table(pa.table({"jpg": pictures, "label": list(labels)}), folder / "t.parquet")
    return folder / "t.parquet"


def dataset(folder: Path, labels: tuple[str, ...], numbers: range | None = None) -> Path:
    """What `Dataset.save_to_disk` writes; the numbers of a ClassLabel stand for `labels`."""
    folder.mkdir()
    features = {"label": {"_type": "ClassLabel", "names": list(labels)}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    numbers = range(len(labels)) if numbers is None else numbers
    table = pa.table({"jpg": [jpeg(n) for n in numbers], "label": list(numbers)})
    table = table.replace_schema_metadata(about)
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return folder


def shards(folder: Path, labels: tuple[str, ...], member: str = "cls") -> Path:
    samples = [
        {
            "__key__": f"{number:03d}",
            "jpg": jpeg(number),
            member: label if member == "cls" else json.dumps({"label": int(label)}),
        }
        for number, label in enumerate(labels)
    ]
    write_shards(folder, samples, samples_per_shard=9)
    return folder


NUMBERED = ("0", "1", "7")
LAYOUTS = {
    "classes": (class_folders, NUMBERED),
    "classes of ids": (class_folders, (*IDS, "n99999999")),
    "table": (csv_table, NUMBERED),
    "parquet": (parquet_table, NUMBERED),
    "huggingface": (dataset, (*IDS, "n99999999")),
    "shards": (shards, NUMBERED),
    "shards of json": (lambda folder, labels: shards(folder, labels, "json"), NUMBERED),
}


def names_file(folder: Path, ids: bool) -> Path:
    path = folder / ("names.json" if ids else "names.txt")
    path.write_text(json.dumps(dict(zip(IDS, NAMES, strict=True))) if ids else "\n".join(NAMES))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_of_every_layout_become_names(tmp_path, name):
    make, labels = LAYOUTS[name]
    names = names_file(tmp_path, labels != NUMBERED)
    layout = "img2dataset" if name.startswith("shards") else "auto"
    report = pack(
        make(tmp_path / "in", labels),
        tmp_path / "out",
        layout=layout,
        template="art of the {}",
        class_names=names,
    )
    assert (report.rows, report.samples, report.classes) == (3, 2, 2)
    assert report.skipped == {NO_NAME: 1} and len(report.examples[NO_NAME]) == 1
    captions = [()] * 2 if layout == "img2dataset" else [(f"art of the {n}",) for n in NAMES]
    found = {(sample.label, sample.captions) for sample in open_source(tmp_path / "out")}
    assert found == set(zip(NAMES, captions, strict=True))


def test_folders_are_looked_up_as_they_are_called(tmp_path):
    (tmp_path / "names.json").write_text('{"red_fox": "a_fox"}')
    source = class_folders(tmp_path / "in", ("red_fox",))
    pack(source, tmp_path / "out", class_names=tmp_path / "names.json")
    (sample,) = open_source(tmp_path / "out")
    assert (sample.label, sample.captions) == ("a_fox", ("a photo of a a fox",))


def test_a_classlabel_of_other_words_goes_by_its_numbers_if_there_are_as_many(tmp_path):
    names = names_file(tmp_path, False)
    same = dataset(tmp_path / "same", ("vulpes", "milvus"))
    pack(same, tmp_path / "out", class_names=names)
    assert {sample.label for sample in open_source(tmp_path / "out")} == set(NAMES)
    # A JSON file says of each number what it is.
    (tmp_path / "names.json").write_text(json.dumps(dict(enumerate(NAMES))))
    pack(same, tmp_path / "by number", class_names=tmp_path / "names.json")
    assert {sample.label for sample in open_source(tmp_path / "by number")} == set(NAMES)
    # Ten of a thousand classes, say: their numbers are others.
    fewer = dataset(tmp_path / "fewer", ("milvus", "felis", "vulpes"), range(2))
    with pytest.raises(ValueError, match=f"nothing of .*: 2 x {NO_NAME}"):
        pack(fewer, tmp_path / "none", class_names=names)


def test_published_shards_of_imagenet_on_the_command_line(tmp_path, capsys):
    source = shards(tmp_path / "in", ("0", "657", "744", "1000"))
    arguments = ["--layout", "img2dataset", "--class-names", "imagenet", "--json"]
    assert main(["pack", str(source), str(tmp_path / "out"), *arguments]) == 3
    values = json.loads(capsys.readouterr().out)
    assert (values["samples"], values["classes"], values["skipped"]) == (3, 2, {NO_NAME: 1})
    labels = Counter(sample.label for sample in open_source(tmp_path / "out"))
    assert labels == {"tench": 1, "missile": 2}


# ------------------------------------------------------------------------------- resuming


def stop(monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, **settings: object) -> None:
    """Pack until the fifth picture, which this machine does not survive."""
    calls = []

    def dies(data: bytes, **limits: int) -> tuple[int, int]:
        calls.append(data)
        if len(calls) > 4:
            raise RuntimeError("power cut")
        return image_size(data, **limits)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr("reinforced_data.packing.samples.image_size", dies)
        pack(source, out, samples_per_shard=1, **settings)
    assert (out.parent / f".{out.name}.partial").is_dir()


def test_a_stopped_pack_does_not_go_on_with_other_names(tmp_path, monkeypatch):
    source = class_folders(tmp_path / "in", tuple(map(str, range(8))))
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefgh"))
    stop(monkeypatch, source, tmp_path / "out", class_names=names)
    for given in (None, "imagenet"):
        with pytest.raises(ValueError, match=rf"class_names was '.*names.txt .*now '?{given}"):
            pack(source, tmp_path / "out", samples_per_shard=1, class_names=given)
    names.write_text("\n".join("abcdefgx"))
    with pytest.raises(ValueError, match=r"class_names was '.*names.txt \(.*now '.*names.txt \("):
        pack(source, tmp_path / "out", samples_per_shard=1, class_names=names)
    names.write_text("\n".join("abcdefgh"))
    report = pack(source, tmp_path / "out", samples_per_shard=1, class_names=names)
    assert (report.samples, report.classes) == (8, 8)


def test_a_pack_that_was_stopped_before_there_were_names_goes_on(tmp_path, monkeypatch):
    source = class_folders(tmp_path / "in", tuple("abcdefgh"))
    stop(monkeypatch, source, tmp_path / "out")
    path = tmp_path / ".out.partial/settings.json"
    settings = json.loads(path.read_text())
    del settings["class_names"]
    path.write_text(json.dumps(settings))
    assert pack(source, tmp_path / "out", samples_per_shard=1).samples == 8
