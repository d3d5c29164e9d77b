"""Where a student comes from, step by step: shards, store, teachers, recipe, code, weights, files.

Read from the store's columns, the run's folder and the exports' metadata.json; weights and files
are hashed again. What a folder does not say is said to be unknown, never guessed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.lineage import given_weights, known_licence, recipe_facts, recorded_licences
from distill.report import Step
from distill.run_exports import Exported
from distill.run_roles import head, locked, locked_tower
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import Store, open_store
from students.bundling.card import Origin
from students.student import WEIGHTS_FILE

_UNKNOWN = "not recorded"
_GIVEN = {"start": "weights it started from", "donor": "donor of weights"}


def origins(run: Path, exports: Sequence[Exported] = ()) -> list[Step]:
    """The steps from the source's shards to the exported files of a run, in order."""
    config, result = _json(run / "config.json"), _json(run / "result.json")
    data, licences = _from_store(config["data"])
    return [
        *data,
        *_given(config["student"], licences),
        *_locked(config, licences),
        _recipe(run, config),
        _code(result),
        _student(run, config, result),
        *(step for export in exports for step in _files(export)),
    ]


def _from_store(data: Mapping[str, Any]) -> tuple[list[Step], dict[str, str]]:
    """Return the steps up to the captions, and the licences that the store knows."""
    name = str(data["store"])
    try:
        store = open_store(name)
        columns = store.columns()
    except (ValueError, OSError) as error:
        # A store that has moved, or went with its cluster: its name is all there is to say.
        return [Step(what="store", which=name, facts={"not there any more": str(error)})], {}
    licences = recorded_licences(columns)
    return [_source(store), *_columns(name, columns, data.get("teachers"), licences)], licences


def _columns(
    name: str,
    columns: Sequence[Column],
    wanted: Sequence[str] | None,
    licences: Mapping[str, str],
) -> Iterator[Step]:
    index = [column for column in columns if column.kind == "index"]
    yield Step(
        what="store",
        which=name,
        facts={
            "columns": str(len(columns)),
            **{f"{c.kind} column": c.name for c in columns if c.kind in ("index", "views")},
            "written with": _versions(index[0].facts.get("versions", {}) if index else {}),
        },
    )
    for column in columns:
        teacher = column.identity.get("teacher")
        if column.kind == "image_embeddings" and (not wanted or teacher in wanted):
            yield _teacher(column, licences)
        if column.kind == "captions" and column.identity.get("captioner"):
            captioner = str(column.identity["captioner"])
            yield Step(what="captioner", which=captioner, facts={"column": column.name})


def _source(store: Store) -> Step:
    first = store.sources[0] if store.sources else "nothing"
    more = f" and {len(store.sources) - 1} more" if len(store.sources) > 1 else ""
    facts = {"shards": f"{len(store.sources):,}", "bytes": f"{sum(store.source_bytes):,}"}
    return Step(what="source", which=f"{first}{more}", facts=facts)


def _teacher(column: Column, licences: Mapping[str, str]) -> Step:
    said, name = column.facts.get("teacher", {}), str(column.identity["teacher"])
    return Step(
        what="teacher",
        which=name,
        facts={
            **_licence(name, licences),
            "weights and preprocessing": _hash(column.identity.get("teacher_fingerprint")),
            "precision": str(said.get("precision") or _UNKNOWN),
            "column": f"{column.name}, {column.identity.get('codec') or _UNKNOWN}",
        },
    )


def _given(student: Mapping[str, Any], licences: Mapping[str, str]) -> Iterator[Step]:
    for name, role in given_weights(student):
        yield Step(what=_GIVEN.get(role, role), which=name, facts=_licence(name, licences))


def _locked(config: Mapping[str, Any], licences: Mapping[str, str]) -> Iterator[Step]:
    """What does not learn: a teacher's stored rows, or a tower of the student's own."""
    for side, name in locked(config).items():
        kind = head(config, side)
        yield Step(
            what=f"locked {side} encoder, from the store",
            which=name,
            facts=_licence(name, licences)
            | {"trained on its rows": f"a head ({kind})" if kind else "nothing"},
        )
    side = locked_tower(config)
    if side:
        student = config["student"]
        giver = side == "text" and student.get("text_from")
        start = giver or student.get("donor") or student.get("name") or _UNKNOWN
        yield Step(what=f"locked {side} tower", which=str(start), facts={"stays": "as it starts"})


def _licence(name: str, licences: Mapping[str, str]) -> dict[str, str]:
    origin = Origin(name=name, licence=licences.get(name) or known_licence(name))
    limits = " (limits use: read it before you ship)" if origin.limited else ""
    return {"licence": (origin.licence or "not known: ask who made it") + limits}


def _recipe(run: Path, config: Mapping[str, Any]) -> Step:
    facts = dict(recipe_facts(config)) | {"seed": str(config.get("seed", _UNKNOWN))}
    return Step(
        what="recipe",
        which=str(run / "config.json"),
        facts=facts | {"sha256": file_sha256(run / "config.json") or _UNKNOWN},
    )


def _code(result: Mapping[str, Any]) -> Step:
    made = result.get("provenance") or {}
    return Step(
        what="code",
        which=f"commit {made.get('commit') or _UNKNOWN}",
        facts={
            "versions": _versions(made.get("versions", {})),
            "machine": str(made.get("machine") or _UNKNOWN),
        },
    )


def _student(run: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> Step:
    steps = f"{result['steps']:,} in {result['seconds']:,.0f} s" if result else _UNKNOWN
    return Step(
        what="student",
        which=str(run / WEIGHTS_FILE),
        facts={
            "model": str(config["student"].get("name") or _UNKNOWN),
            "steps": steps,
            "sha256": file_sha256(run / WEIGHTS_FILE) or "the weights are not there any more",
        },
    )


def _files(export: Exported) -> Iterator[Step]:
    for file in export.files:
        now = file_sha256(export.folder / file.path)
        state = "gone since" if now is None else "as exported" if now == file.sha256 else "CHANGED"
        yield Step(
            what="file",
            which=str(export.folder / file.path),
            facts={
                "format": file.format,
                "sha256": file.sha256,
                "now": state,
                "written with": _versions(export.versions),
            },
        )


def file_sha256(path: Path) -> str | None:
    """Hash a file; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(value: Any) -> str:
    return f"fingerprint {value}" if value else _UNKNOWN


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {found}" for name, found in versions.items() if found) or _UNKNOWN


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
