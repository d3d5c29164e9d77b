"""The public names of `reinforced_data`, which `reinforced_data/__init__.py` hands out."""

from reinforced_data.auditing.auditing import AuditReport, audit
from reinforced_data.auditing.repairing import RepairReport, repair
from reinforced_data.captions.captioning import CaptionReport, caption
from reinforced_data.captions.policy import CaptionPolicy
from reinforced_data.datacompdr.importing import ImportReport, import_datacompdr
from reinforced_data.glyphs import pack_glyphs
from reinforced_data.packing.packing import PackReport, pack
from reinforced_data.pictures import Picture
from reinforced_data.planning.cluster import Cluster, Simulation
from reinforced_data.planning.costing import StorePlan
from reinforced_data.planning.planning import plan_store
from reinforced_data.planning.simulation import simulate
from reinforced_data.reading.batch import Batch
from reinforced_data.reading.reader import ReinforcedDataset, StoredTeacher, open_dataset
from reinforced_data.reinforcing import ReinforceReport, reinforce
from reinforced_data.scores.scores import ClipScore, ScoreReport, add_scores
from reinforced_data.scores.tables import read_scores
from reinforced_data.scores.weights import ScoreWeights
from reinforced_data.source import (
    Sample,
    Source,
    decode_image,
    expand_sources,
    open_source,
    read_shard,
)
from reinforced_data.store.extra_columns import read_extra, write_extra
from reinforced_data.views import View, ViewPolicy, render_view, sample_view

__all__ = [
    "AuditReport",
    "Batch",
    "CaptionPolicy",
    "CaptionReport",
    "ClipScore",
    "Cluster",
    "ImportReport",
    "PackReport",
    "Picture",
    "ReinforceReport",
    "ReinforcedDataset",
    "RepairReport",
    "Sample",
    "ScoreReport",
    "ScoreWeights",
    "Simulation",
    "Source",
    "StorePlan",
    "StoredTeacher",
    "View",
    "ViewPolicy",
    "add_scores",
    "audit",
    "caption",
    "decode_image",
    "expand_sources",
    "import_datacompdr",
    "open_dataset",
    "open_source",
    "pack",
    "pack_glyphs",
    "plan_store",
    "read_extra",
    "read_scores",
    "read_shard",
    "reinforce",
    "render_view",
    "repair",
    "sample_view",
    "simulate",
    "write_extra",
]
