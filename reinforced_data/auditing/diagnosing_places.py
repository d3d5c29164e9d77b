"""Hypotheses about where rows are: in another column, in another row, in another order, or here."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from reinforced_data.auditing.derived import shifted_to
from reinforced_data.auditing.failing_samples import Candidate, FailingSamples
from reinforced_data.auditing.replaying import StoredShard, embed_strings, embed_views
from reinforced_data.store.columns import library_versions

_MOST_EMBEDDED = 512


def swapped(case: FailingSamples) -> Iterator[Candidate]:
    """Another teacher's rows are here, or these are there."""
    own = case.replay.entry.column
    for other in case.found.of_kind(own.kind):
        column = other.column
        same_shape = column.facts.get("teacher", {}).get("embed_dim") == case.live.shape[1]
        shards = {shard for shard, _ in case.places}
        comparable = same_shape and column.identity["hangs_on"] == own.identity["hangs_on"]
        if column.name == own.name or not comparable or not shards <= other.sound:
            continue
        opened = {n: StoredShard(case.store, column, case.replay.parent, n) for n in shards}
        places = zip(case.places, case.items, strict=True)
        there = np.concatenate([opened[shard].unit([row], item) for (shard, row), item in places])
        yield Candidate(
            cause="swapped",
            text=f"its rows are in the column {column.name}: two teachers' columns were swapped",
            errors=case.replay.errors_of(case.live, there),
        )
        yield Candidate(
            cause="swapped",
            text=f"its rows are those of the column {column.name}, another teacher's",
            errors=case.replay.errors_of(case.stored, there),
        )


def shifted(case: FailingSamples) -> Iterator[Candidate]:
    """The rows are those of samples a fixed number of rows away."""
    votes = Counter(
        int(errors.argmin() - place + len(errors) // 2) % len(errors) - len(errors) // 2
        for place, errors in case.neighbours
    )
    for shift, _ in votes.most_common(3):
        if shift:
            moved = [errors[(place + shift) % len(errors)] for place, errors in case.neighbours]
            yield Candidate(
                cause="shifted",
                text=f"rows are shifted by {'one' if abs(shift) == 1 else abs(shift)}: what "
                f"belongs to a sample is in the {shifted_to(shift)} row",
                errors=np.array(moved),
            )


def reordered(case: FailingSamples) -> Iterator[Candidate]:
    """A sample's own views, or texts, in another order."""
    counts = [case.shards[shard].num_items(row) for shard, row in case.places]
    most = max(counts)
    few = range(min(len(case.places), max(1, _MOST_EMBEDDED // most)))
    errors = np.full((len(few), most), np.inf)
    for item in range(most):
        having = [i for i in few if item < counts[i]]
        if having:
            live = _embed_items(case, having, item)
            errors[having, item] = case.replay.errors_of(live, case.stored[having])
    votes: dict[int, Counter[int]] = {}
    for i in few:
        votes.setdefault(case.items[i], Counter())[int(errors[i].argmin())] += 1
    order = {item: count.most_common(1)[0][0] for item, count in sorted(votes.items())}
    what = "view" if case.is_image else "text"
    moved = ", ".join(f"{a} is {b}" for a, b in order.items() if a != b)
    if moved:
        yield Candidate(
            cause="reordered",
            text=f"the {what}s of a sample are in another order: stored {what} {moved}",
            errors=np.array([errors[i, order[case.items[i]]] for i in few]),
        )


def _embed_items(case: FailingSamples, samples: Sequence[int], item: int) -> np.ndarray:
    wanted, texts = [], []
    for i in samples:
        shard, row = case.places[i]
        views = case.shards[shard].views
        if views is not None:
            wanted.append((case.data[i], views.view(row, item)))
        else:
            texts.append((case.shards[shard].texts[row] or [])[item])
    teacher = case.replay.teacher
    return embed_views(teacher, wanted) if wanted else embed_strings(teacher, texts)


def rounded(case: FailingSamples) -> Iterator[Candidate]:
    """Each row is nearest to its own, and not far from it."""
    own = np.array([errors.argmin() == place for place, errors in case.neighbours])
    errors = np.array([errors[place] for place, errors in case.neighbours])
    near = own & (errors < 0.5)
    text = (
        f"the rows are in their places but computed otherwise, {np.median(errors):.2f} of the "
        f"distance between two samples away{_version_changes(case)}"
    )
    yield Candidate(cause="rounding", text=text, errors=np.where(near, 0.0, np.inf))


def _version_changes(case: FailingSamples) -> str:
    """Name the libraries that are not those the column was written with."""
    then, now = case.replay.entry.column.facts.get("versions", {}), library_versions()
    changed = [
        f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)
    ]
    return f" ({', '.join(changed)})" if changed else ""
