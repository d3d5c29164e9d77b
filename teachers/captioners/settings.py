"""What can be asked of a captioner from the command line. No imports: `--help` has to be quick."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CaptionerSettings:
    """How a captioner is set up; None leaves it to the captioner.

    A captioner refuses a setting that it has no use for, so that none is ignored in silence.

    Attributes:
        prompt: what is asked of the model; for rewrite a text with {text}, for fuse one with {alt}
            and {visual}, or veclip or capsfusion.
        examples: a file of pairs that rewrite shows the model, original and rewritten.
        temperature: of sampling; 0 is greedy.
        top_p: the share of probability that is sampled from.
        max_tokens: new tokens per caption, at most.
        precision: of the weights.
        device: where it runs.
        concurrency: requests under way at once, for a server; of each process that asks it, so
            with several workers it is theirs times as many.
    """

    prompt: str | None = None
    examples: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    precision: str | None = None
    device: str | None = None
    concurrency: int | None = None
