"""Whether a configuration is that of the run in a folder, which may then go on."""

import json
import os
from pathlib import Path
from typing import Any

from distill.config import RunConfig

# What may change between the parts of one run without making it another run.
_FREE = (
    # "save_every" covers save_every_minutes: names are compared by how they begin.
    *(
        "out",
        "data.num_workers",
        "data.micro_batch_size",
        "log_every",
        "save_every",
        "keep_checkpoints",
        "templates",
    ),
    *("evaluate_every", "evaluate_on", "compare_to", "track"),
)


def check_same_run(config: RunConfig, folder: Path) -> None:
    """Refuse to go on with a run that was started with another configuration.

    Raises:
        ValueError: names every field that differs, with both values.
    """
    changed = [
        f"{name}: {before!r} -> {now!r}"
        for name, (before, now) in differences(config, folder).items()
        # Once `distill.train` did not write down the store: "" is none in particular.
        if not name.startswith(_FREE) and (name, before) != ("data.store", "")
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run with another configuration ({'; '.join(changed)}). Use another "
            "out folder, the same values, or remove its checkpoints to start over"
        )


def differences(config: RunConfig, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Fields in which a configuration differs from the one in a run's folder: (there, here).

    A field that was unknown to the version which wrote the folder had its default there, and one
    that is no more and was off changes nothing: other options do not make old runs other runs.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    before = _flat(json.loads(path.read_text()))
    now, default = (_flat(json.loads(json.dumps(c.as_json()))) for c in (config, RunConfig()))
    for one in (before, now):
        _spell_alike(one)
    before |= {name: default[name] for name in now.keys() & default.keys() - before.keys()}
    before = {name: value for name, value in before.items() if name in now or value}
    return {
        name: (before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }


def _spell_alike(flat: dict[str, Any]) -> None:
    """Write a stage's donor as its place in the run's folder, which may move, and paths in full."""
    out, store, donor = (Path(flat.get(n) or "") for n in ("out", "data.store", "student.donor"))
    own = (out / "stages", *([out.parent] if out.parent.name == "stages" else []))
    if flat.get("student.donor") and donor.parent in own:
        flat["student.donor"] = f"stages/{donor.name}"
    if flat.get("data.store") and "://" not in flat["data.store"]:
        flat["data.store"] = os.path.abspath(store)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= inner if inner else {prefix + name: value}
    return flat
