"""A caption set's damaged shards, and teachers' rows of texts: who can write them again, and how.

Only the captioner of then may write captions, with the settings that the column records. What it
says need not be what it said (a server's weights cannot be hashed), so teachers' rows of these
texts go with them.
"""

from collections.abc import Callable, Sequence

from reinforced_data.captions.filters import LengthBounds
from reinforced_data.captions.plan import CaptionPlan, make_caption_plan
from reinforced_data.captions.settings import CaptionSettings
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.embedded_texts import captions_unit, embed_captions
from reinforced_data.store.column_rows import IndexRows
from reinforced_data.store.columns import ORIGINAL, Column
from reinforced_data.store.commits import Skipped
from reinforced_data.store.layout import Store
from teachers import Captioner, ClipModel

IMPORTED = (
    "was imported, and only what was published can say it again: delete the records of the damaged "
    "shards (commits/COLUMN/SHARD.json) and give the same distill import command once more, which "
    "writes what is missing"
)


def is_written(column: Column) -> bool:
    """Whether these are a captioner's texts, not the source's own."""
    return column.kind == "captions" and column.identity.get("set") != ORIGINAL


def rows_of_set(store: Store, captions: Column) -> list[Column]:
    """Find the teachers' rows of a caption set."""
    rows = store.columns("text_embeddings")
    return [column for column in rows if column.identity["hangs_on"] == captions.name]


def plan_of_set(
    store: Store,
    captions: Column,
    captioners: Sequence[Captioner],
    teachers: Sequence[ClipModel],
    batch_size: int,
) -> CaptionPlan | str:
    """Return how to write a set's shards again, or what stands in the way."""
    identity = captions.identity
    if "captioner_fingerprint" not in identity:
        return IMPORTED
    given = {getattr(teacher, "fingerprint", ""): teacher for teacher in teachers}
    score = identity["score"]
    needed = {c.identity["teacher_fingerprint"]: c.identity for c in rows_of_set(store, captions)}
    if score is not None:
        needed[score["teacher_fingerprint"]] = score
    lacking = sorted(one["teacher"] for digest, one in needed.items() if digest not in given)
    fingerprint = identity["captioner_fingerprint"]
    captioner = next((c for c in captioners if c.fingerprint == fingerprint), None)
    if captioner is None:
        return (
            f"needs its captioner {identity['captioner']}, fingerprint {fingerprint[:12]}: give "
            "--captioners, with the settings of then"
        )
    if lacking:
        return (
            f"needs {', '.join(lacking)} beside its captioner, whose rows and scores are of its "
            "texts: give --teachers, with the precision of then"
        )
    return make_caption_plan(
        store,
        captioner,
        CaptionSettings(
            name=identity["set"],
            num_captions=identity["num_captions"],
            seed=identity["seed"],
            bounds=LengthBounds(min_words=identity["min_words"], max_words=identity["max_words"]),
            min_score=None if score is None else score["min_score"],
            batch_size=batch_size,
        ),
        score_teacher=None if score is None else given[score["teacher_fingerprint"]],
        teachers=(),
    )


def redo_text_rows(
    store: Store,
    column: Column,
    captions: Column,
    shard: int,
    teacher: ClipModel,
    batch_size: int,
    between: Callable[[], None],
) -> None:
    """Embed a set's texts of a shard again: the store has them, the source is not needed."""
    rows = store.rows(captions, shard)
    keys = IndexRows(store.rows(store.columns("index")[0], shard)).keys
    texts = [None if row is None else tuple(row) for row in rows["captions"].to_pylist()]
    places, embedded = embed_captions(teacher, texts, batch_size, between)
    batch, reasons = captions_unit(codec_of(store.storage, column), texts, places, embedded, keys)
    skipped = [
        Skipped(row=row, key=keys[row], reason=reason)
        for row, reason in enumerate(reasons)
        if reason is not None
    ]
    store.write(column, shard, batch, skipped)
