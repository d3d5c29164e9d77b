"""What a store's columns are to a reader: one view set, and the teachers that saw its views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reinforced_data.codecs.codec import Codec
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.store.columns import (
    DEFAULT,
    ORIGINAL,
    Column,
    modalities_of,
    view_set_of,
)
from reinforced_data.store.storage import Storage
from teachers.contract import Kind
from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class StoredTeacher:
    """A teacher as a store remembers it.

    Attributes:
        name: as given to `load_teacher`.
        kind: softmax or sigmoid head; None of a teacher of one modality, which has none.
        logit_scale: the factor itself, likewise.
        logit_bias: of a sigmoid head, else None.
        embed_dim: the width of its rows.
        precision: of its weights.
        fingerprint: of weights, precision, preprocessing and tokenizer.
        image: the column of its image rows; None of a teacher of texts alone.
        text: the column of its text rows for the original captions; None of one of pictures alone.
        texts: the same for every caption set that it has read, by the set's name.
        image_codec: how image rows are stored.
        text_codec: how text rows are stored.
    """

    name: str
    kind: Kind | None
    logit_scale: float | None
    logit_bias: float | None
    embed_dim: int
    precision: str
    fingerprint: str
    image: Column | None = field(repr=False)
    text: Column | None = field(repr=False)
    texts: Mapping[str, Column] = field(repr=False)
    image_codec: Codec | None = field(repr=False)
    text_codec: Codec | None = field(repr=False)

    @property
    def widths(self) -> tuple[int, int]:
        """Of its image rows and text rows; 0 where it has none."""
        return self.embed_dim * (self.image is not None), self.embed_dim * (self.text is not None)


def chosen_views(where: str, columns: Sequence[Column], name: str | None) -> Column:
    """Return the views column of a set; for None the only one, or the default one.

    Raises:
        ValueError: there is no such set, none at all, or several of which none is the default.
    """
    sets = {view_set_of(column): column for column in columns if column.kind == "views"}
    if not sets:
        raise ValueError(f"{where} must have a column of kind views, it has none")
    if name is not None and name not in sets:
        raise ValueError(f"{where}: {unknown_name('view set', name, sets)}")
    if name is None and len(sets) > 1 and DEFAULT not in sets:
        raise ValueError(
            f"{where} has several view sets ({', '.join(sorted(sets))}) and none is the default: "
            "name one, open_dataset(path, view_set=...) or --data.view-set NAME"
        )
    return sets[name or (DEFAULT if DEFAULT in sets else next(iter(sets)))]


def stored_teachers(
    storage: Storage, columns: Sequence[Column], views: Column
) -> tuple[StoredTeacher, ...]:
    """List the teachers that have rows for these views and for the original captions.

    A teacher of one modality needs rows of that one alone.
    """
    found = []
    for column in columns:
        if column.kind == "image_embeddings" and column.identity["hangs_on"] == views.name:
            texts = _texts_of(columns, column) if "text" in modalities_of(column) else {}
            text = texts.get(ORIGINAL)
            if text is not None or "text" not in modalities_of(column):
                found.append(_stored_teacher(storage, column, text, texts))
        elif column.kind == "text_embeddings" and modalities_of(column) == ("text",):
            texts = _texts_of(columns, column)
            if texts.get(ORIGINAL) == column:
                found.append(_stored_teacher(storage, None, column, texts))
    return tuple(found)


def _stored_teacher(
    storage: Storage, image: Column | None, text: Column | None, texts: Mapping[str, Column]
) -> StoredTeacher:
    column = image or text
    assert column is not None
    facts = column.facts["teacher"]
    return StoredTeacher(
        name=column.identity["teacher"],
        kind=facts["kind"],
        logit_scale=facts["logit_scale"],
        logit_bias=facts["logit_bias"],
        embed_dim=facts["embed_dim"],
        precision=facts.get("precision", "fp32"),
        fingerprint=column.identity["teacher_fingerprint"],
        image=image,
        text=text,
        texts=texts,
        image_codec=None if image is None else codec_of(storage, image),
        text_codec=None if text is None else codec_of(storage, text),
    )


def _texts_of(columns: Sequence[Column], image: Column) -> dict[str, Column]:
    """Return the text columns of the teacher that wrote an embeddings column, by caption set."""
    sets = {c.name: c.identity["set"] for c in columns if c.kind == "captions"}
    found = {}
    for column in columns:
        parent = column.identity.get("hangs_on")
        if column.kind != "text_embeddings" or parent not in sets:
            continue
        if column.identity["teacher"] == image.identity["teacher"]:
            found[sets[parent]] = column
    # Rows of all sets go into one array.
    kept = ("teacher_fingerprint", "codec", "codebook")
    original = found.get(ORIGINAL)
    return {
        name: column
        for name, column in found.items()
        if original is not None
        and all(column.identity.get(key) == original.identity.get(key) for key in kept)
    }
