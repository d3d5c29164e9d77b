"""The names of codecs, apart from what they do, so that the command line's help needs no torch."""

from typing import Final, Literal, get_args

CodecName = Literal[
    "float32", "float16", "bfloat16", "int8", "int4", "pq64", "pq96", "pq128", "pq192"
]
# The smallest that leaves the affinity targets what they were, without a codebook (docs/codecs.md).
DEFAULT_CODEC: Final = "int8"
CODEC_NAMES: tuple[str, ...] = get_args(CodecName)
