"""The teachers' knowledge on disk: written once by `reinforce`, read by any student's training.

    reinforce("cc3m/{0000..0331}.tar", "cc3m-dr", teachers=teachers, num_views=10)
    loader = open_dataset("cc3m-dr").loader(preprocess=..., tokenizer=..., batch_size=1024, ...)

README.md beside this file specifies the format.
"""

from reinforced_data.auditing import AuditReport, audit
from reinforced_data.batches import Batch
from reinforced_data.glyphs import pack_glyphs
from reinforced_data.packing import PackReport, pack
from reinforced_data.reader import ReinforcedDataset, StoredTeacher, open_dataset
from reinforced_data.reinforce import ReinforceReport, reinforce
from reinforced_data.source import (
    Sample,
    Source,
    decode_image,
    expand_sources,
    open_source,
    read_shard,
)
from reinforced_data.views import View, ViewPolicy, render_view, sample_view

__all__ = [
    "AuditReport",
    "Batch",
    "PackReport",
    "ReinforceReport",
    "ReinforcedDataset",
    "Sample",
    "Source",
    "StoredTeacher",
    "View",
    "ViewPolicy",
    "audit",
    "decode_image",
    "expand_sources",
    "open_dataset",
    "open_source",
    "pack",
    "pack_glyphs",
    "read_shard",
    "reinforce",
    "render_view",
    "sample_view",
]
