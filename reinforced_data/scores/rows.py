"""The schema of a scores column."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from reinforced_data.store.arrow_rows import make_batch


def scores_batch(
    values: Float32[np.ndarray, " n"], valid: np.ndarray, keys: Sequence[str]
) -> pa.RecordBatch:
    """Schema: score, null where `valid` is False."""
    values = np.where(valid, values, np.float32(0))
    return make_batch({"score": pa.array(values, pa.float32(), mask=~valid)}, keys)
