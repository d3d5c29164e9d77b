"""What a run left behind, as facts for a model card: teachers, locked parts, data, recipe, scores.

Read from the run's `config.json` and `result.json`, and from the columns of the store it names.
What is not there any more is left out, never guessed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.evaluation.evaluator import NOT_SCORES
from distill.objective import TERMS
from distill.run_roles import head, locked, locked_tower
from reinforced_data.store.columns import Column
from reinforced_data.store.layout import open_store
from students.bundling.card import CardFacts, Origin
from teachers.catalog import licence_of


def card_facts(run: Path | None, *, licence: str = "") -> CardFacts:
    """Collect what a run's folder says.

    Raises:
        ValueError: there is no run in the folder.
    """
    if run is None:
        return CardFacts(licence=licence)
    if not (run / "config.json").is_file():
        raise ValueError(f"no training run in {run}: config.json is missing there")
    config, result = _read(run / "config.json"), _read(run / "result.json")
    store = str(config["data"]["store"])
    metrics = result.get("metrics") or {}
    return CardFacts(
        origins=tuple(dict.fromkeys(_origins(config, store))),
        data=(("reinforced dataset", store.rstrip("/").rpartition("/")[2]),),
        recipe=(*recipe_facts(config), *_lock_facts(config)),
        metrics={k: v for k, v in metrics.items() if k.rpartition("/")[2] not in NOT_SCORES},
        retention=result.get("retention") or {},
        licence=licence,
    )


def _origins(config: Mapping[str, Any], store: str) -> Iterator[Origin]:
    columns = _columns(store)
    licences = recorded_licences(columns)

    def origin(name: str, role: str) -> Origin:
        return Origin(
            name=_short(name), role=role, licence=licences.get(name) or known_licence(name)
        )

    for name, role in given_weights(config["student"]):
        yield origin(name, role)
    for side, name in locked(config).items():
        yield origin(name, f"locked {side} encoder")
    wanted = config["data"].get("teachers")
    for column in columns:
        teacher = column.identity.get("teacher")
        if column.kind == "image_embeddings" and teacher and (not wanted or teacher in wanted):
            yield origin(str(teacher), "teacher")
        if column.kind == "captions" and column.identity.get("captioner"):
            yield Origin(name=_short(str(column.identity["captioner"])), role="captioner")


def _columns(store: str) -> list[Column]:
    try:
        return list(open_store(store).columns()) if store else []
    except (OSError, ValueError):
        return []  # moved or removed since


def recorded_licences(columns: Iterable[Column]) -> dict[str, str]:
    """Return the licences that a store's columns name, by teacher."""
    found = (
        (str(column.identity.get("teacher")), column.facts.get("teacher", {}).get("licence"))
        for column in columns
    )
    return {name: licence for name, licence in found if licence}


def given_weights(student: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Weights that a student starts from, of a config's "student", and what they are in it."""
    # A name with a slash comes with weights: published ones, or a trained student's folder.
    start = str(student.get("name") or "")
    named = {"start": start if "/" in start else "", "donor": student.get("donor")}
    named["donor of the text tower"] = student.get("text_from")
    yield from ((str(name), role) for role, name in named.items() if name)


def _lock_facts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for side in locked(config):
        kind = head(config, side)
        yield f"trained on the locked {side} encoder", f"a head ({kind})" if kind else "nothing"
    if side := locked_tower(config):
        yield "locked tower", f"{side}, as it started"


def known_licence(name: str) -> str | None:
    """Return the licence of an open_clip name's weights; None where nobody looked."""
    model, slash, tag = name.partition("/")
    return licence_of(model, tag) if slash and "/" not in tag else None


def _short(name: str) -> str:
    """Drop the folders of a path: a card that is published tells nobody's."""
    return Path(name).name if Path(name).is_absolute() else name


def recipe_facts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say in a few words what a run's configuration asks for."""
    yield "steps", f"{config['schedule']['num_steps']:,} of {config['data']['batch_size']:,} pairs"
    weights = config["objective"]
    every = {name: weights.get(name) for name in TERMS} | (weights.get("custom") or {})
    named = [f"{weight:g} {name}" for name, weight in every.items() if weight]
    if named:
        yield "objective", " + ".join(named)
    rate, decay = config["optimizer"]["lr"], config["optimizer"]["weight_decay"]
    yield "learning rate, weight decay", f"{rate:g}, {decay:g}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
