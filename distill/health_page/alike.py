"""Which pictures are alike: nearest neighbours among stored rows, exact, through faiss."""

import faiss
import numpy as np
from jaxtyping import Float32


def nearest_others(rows: Float32[np.ndarray, "n d"]) -> np.ndarray:
    """The cosine of each row to its nearest other one."""
    return _search(rows, rows, 2)[0][:, 1]


def twin_pairs(rows: Float32[np.ndarray, "n d"], most: int) -> list[tuple[int, int, float]]:
    """Pairs of rows that are each other's nearest, most alike first."""
    cosines, indices = _search(rows, rows, 2)
    # Of equal rows either may come first.
    own = np.arange(len(rows))
    other = np.where(indices[:, 0] == own, indices[:, 1], indices[:, 0])
    pairs = [(int(a), int(b), float(cosines[a, 1])) for a, b in enumerate(other) if a < b]
    mutual = [pair for pair in pairs if other[pair[1]] == pair[0]] or pairs
    return sorted(mutual, key=lambda pair: -pair[2])[:most]


def neighbour_lists(
    rows: Float32[np.ndarray, "n d"], queries: int, most: int
) -> list[tuple[int, list[tuple[int, float]]]]:
    """For some rows, evenly taken, their nearest others with cosines, nearest first."""
    chosen = np.linspace(0, len(rows) - 1, min(queries + 2, len(rows))).astype(int)[1:-1]
    chosen = chosen if len(chosen) else np.array([0])
    cosines, indices = _search(rows, rows[chosen], min(most + 1, len(rows)))
    return [
        (
            int(query),
            [
                (int(i), float(cosine))
                for i, cosine in zip(indices[n], cosines[n], strict=True)
                if i != query
            ][:most],
        )
        for n, query in enumerate(chosen)
    ]


def _search(rows: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows, dtype=np.float32))
    return index.search(np.ascontiguousarray(queries, dtype=np.float32), count)
