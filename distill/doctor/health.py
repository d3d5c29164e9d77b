"""The health of one store or one run: what can be seen of it in seconds.

Left out: hashes and live teachers, which `distill audit` checks.
"""

import math
from pathlib import Path

from distill.doctor.findings import Finding
from distill.progress import is_run, run_progress
from reinforced_data.locations import locate
from reinforced_data.store.layout import Store, open_store
from reinforced_data.store.progress import store_progress
from reinforced_data.store.storage import Storage

_SHOWN = 3
_LONG_AGO = 3600


def examine(path: str | Path) -> list[Finding]:
    """Look at a store or a run.

    Raises:
        ValueError: the folder is neither.
    """
    storage = Storage(path)
    if storage.exists("sources.json"):
        return examine_store(path)
    if is_run(storage):
        return examine_run(path)
    raise ValueError(
        f"{storage.name} is neither a reinforced dataset (it has no sources.json) nor a training "
        "run (no config.json, no log.jsonl)"
    )


def examine_store(path: str | Path) -> list[Finding]:
    """Whether everything that was committed is there, and what is still missing."""
    store, progress = open_store(path), store_progress(path)
    detail = f"{progress.shards_done} of {progress.shards} shards, {progress.samples} samples"
    hint = "" if progress.complete else "run the same distill reinforce again: it goes on"
    findings = [_finding("progress", "warn", detail, hint)]
    findings.append(_finding("data files", "fail", *_data_files(store)))
    findings.append(_finding("source", "fail", *_sources(store)))
    skipped = sum(progress.skipped.values())
    reasons = ", ".join(f"{count} x {reason}" for reason, count in progress.skipped.items())
    # Five in a hundred are more than a few broken pictures.
    many = skipped > 0.05 * max(1, progress.samples)
    hint = "look at the source: distill status lists cut shards" if many else ""
    findings.append(_finding("left out", "warn", reasons or "nothing", hint))
    if progress.cut_shards:
        hint = "fetch them again, then run distill reinforce again"
        findings.append(_finding("cut shards", "warn", _few(list(progress.cut_shards)), hint))
    return findings


def _data_files(store: Store) -> tuple[str, str]:
    """Compare the files' sizes with the commits."""
    wrong, count = [], 0
    for column in store.columns():
        for shard in sorted(store.done(column)):
            commit = store.commit(column, shard)
            if commit is None:
                continue
            count += 1
            path = f"{store.storage.root}/{commit.data}"
            size = store.storage.fs.size(path) if store.storage.exists(commit.data) else None
            if size != commit.num_bytes:
                wrong.append(f"{commit.data} ({'missing' if size is None else f'{size} bytes'})")
    if not wrong:
        return f"{count} committed files are there, in full", ""
    hint = "delete their records under commits/ and run distill reinforce again"
    return f"{len(wrong)} of {count} are not as committed: {_few(wrong)}", hint


def _sources(store: Store) -> tuple[str, str]:
    """Whether the source shards are in sight, at their sizes."""
    wrong = []
    for path, size in zip(store.sources, store.source_bytes, strict=True):
        try:
            fs, inner = locate(path)
            found = fs.size(inner) if fs.exists(inner) else None
        except (OSError, ValueError) as error:
            found, path = None, f"{path} ({error})"
        if found != size:
            wrong.append(path)
    if not wrong:
        return f"{len(store.sources)} shards where the store says, at their sizes", ""
    hint = "a store holds no images: put its source back where it was, unchanged"
    return f"{len(wrong)} of {len(store.sources)} missing or changed: {_few(wrong)}", hint


def examine_run(path: str | Path) -> list[Finding]:
    """Whether a run goes on, from where it would, and whether its numbers are numbers."""
    progress = run_progress(path)
    detail = f"step {progress.step} of {progress.num_steps or '?'}"
    age = progress.seconds_since_record
    hint = ""
    if not progress.finished and age is not None and age > _LONG_AGO:
        hint = f"nothing was logged for {age / 3600:.1f} h; the same command resumes"
    detail += ", finished" if progress.finished else ""
    findings = [_finding("progress", "warn", detail, hint)]
    found = "none" if progress.checkpoint is None else f"step {progress.checkpoint}"
    late = progress.checkpoint is None and not progress.finished
    hint = "a crash now starts over: see --save-every" if late else ""
    findings.append(_finding("checkpoint", "warn", found, hint))
    sick = [name for name, value in progress.loss.items() if not math.isfinite(value)]
    hint = "go back to a checkpoint with a lower --optimizer.lr" if sick else ""
    values = ", ".join(f"{name} {value:.4g}" for name, value in progress.loss.items())
    findings.append(_finding("loss", "fail", values or "nothing logged yet", hint))
    return findings


def _finding(name: str, otherwise: str, detail: str, hint: str) -> Finding:
    """A finding that is well exactly when nothing is to be done."""
    status = ("fail" if otherwise == "fail" else "warn") if hint else "ok"
    return Finding(name=name, status=status, detail=detail, hint=hint)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
