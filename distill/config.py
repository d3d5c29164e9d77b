"""The complete description of a training run: what a recipe returns and the command line changes.

Plain frozen values, no YAML and no flags: `distill train RECIPE --schedule.num-steps 50000` sets
one field. A run writes its resolved configuration beside its results.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.lock_config import LockConfig
from distill.mask_config import MaskConfig
from distill.objective import Objective
from distill.optimizer_config import OptimizerConfig
from distill.watching import WatchConfig
from reinforced_data.captions.policy import CaptionPolicy
from reinforced_data.scores.weights import ScoreWeights
from students.rounding import Precision
from students.tokens.policy import TokenPolicy, policies_from_json
from teachers.contract import Kind


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a step reads.

    Attributes:
        store: folder of the reinforced dataset (its views alone are enough without teachers).
        batch_size: pairs per step over all processes.
        micro_batch_size: pairs that a process holds activations of at a time; the gradient is the
            whole batch's all the same (gradient cache), for one more forward. 0: all at once.
        teachers: names of the stored teachers to learn from; all of them when None.
        view_set: name of the stored view set; when None the only one, or the default one.
        views: use only the first so many stored views; all when None.
        captions: which of a sample's texts are read: the source's own, or those of caption sets.
        score_weights: how a stored score weighs the samples in the contrastive and affinity terms.
        window_shards: shards that are shuffled together.
        num_workers: loader processes per training process.
    """

    store: str = ""
    batch_size: int = 256
    micro_batch_size: int = 0
    teachers: tuple[str, ...] | None = None
    view_set: str | None = None
    views: int | None = None
    captions: CaptionPolicy = field(default_factory=CaptionPolicy)
    score_weights: ScoreWeights = field(default_factory=ScoreWeights)
    window_shards: int = 16
    num_workers: int = 1

    def __post_init__(self) -> None:
        """Refuse sizes below what they can be."""
        if self.batch_size < 1 or self.micro_batch_size < 0:
            raise ValueError(
                "data needs batch_size >= 1 and micro_batch_size >= 0, got "
                f"{self.batch_size} and {self.micro_batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Who learns.

    Attributes:
        name: an open_clip model, a catalog name, or a student's folder to continue from. Of a
            student passed to `train`, its own name.
        kind: softmax, or sigmoid for a student with a bias (SigLIP). Of one that is trained
            already, what it is.
        text_from: folder of a model whose text tower the student starts with (same shape).
        donor: a student's folder or a teacher whose weights the student starts with, both towers,
            as far as they fit (distill inherit shows how far).
        selector: which units of a wider donor it keeps; activation and taylor measure the donor
            on the store's pictures; learned takes a donor that was trained with masks.
        depth: which blocks of a deeper donor it keeps; similarity measures too.
        stages: students that are trained before this one, each the next one's donor (progressive
            compression); each takes the whole schedule, in a folder of its own under OUT/stages.
    """

    name: str = ""
    kind: Kind = "softmax"
    text_from: str | None = None
    donor: str | None = None
    selector: Literal["leading", "uniform", "magnitude", "activation", "taylor", "learned"] = (
        "magnitude"
    )
    depth: Literal["uniform", "leading", "similarity"] = "uniform"
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, then a cosine down to `final_lr` times the peak."""

    num_steps: int = 30_000
    warmup_steps: int = 1_000
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a schedule that never reaches its peak."""
        if self.num_steps < 1 or not 0 <= self.warmup_steps <= self.num_steps:
            raise ValueError(
                "schedule needs num_steps >= 1 and 0 <= warmup_steps <= num_steps, got "
                f"num_steps={self.num_steps}, warmup_steps={self.warmup_steps}"
            )

    def of_length(self, num_steps: int) -> "ScheduleConfig":
        """Return this schedule over `num_steps`, warming up for a tenth of them at most."""
        warmup = min(self.warmup_steps, num_steps // 10)
        return dataclasses.replace(self, num_steps=num_steps, warmup_steps=warmup)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, whole.

    Attributes:
        tokens: which patches and words a step computes; see docs/tokens.md.
        tokens_then: the policies after `tokens.until` of the steps, each until its own; after the
            last one every token. On the command line once for each, as NAME=VALUE,...:
            `--tokens-then image=resize,image-keep=0.5,until=0.97`.
        quantize: weights, and for int8 what layers are given, are rounded in training as files of
            this precision have them; the student itself stays float. See docs/export.md.
        precision: "no" is float32; "bf16" is autocast (losses stay in float32).
        ema_decay: keep an exponential moving average and evaluate and save that; off when None.
        max_logit_scale: the scale (not its logarithm) is clamped to [1, this].
        activation_checkpointing: recompute activations in the backward pass.
        compile: torch.compile the towers.
        evaluate_on: split name -> source of shards; one unnamed source under the key "".
        compare_to: `metrics.json` of a teacher, written by `distill evaluate`, for retention.
        evaluate_every, save_every, log_every: steps; 0 switches the first two off until the end.
        save_every_minutes: also save when so much time has passed, looked at with every log line.
        keep_checkpoints: how many of the newest stay.
        track: where the log's numbers go beside the run's folder; see docs/training.md.
    """

    student: StudentConfig = field(default_factory=StudentConfig)
    lock: LockConfig = field(default_factory=LockConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: Objective = field(default_factory=Objective)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    tokens: TokenPolicy = field(default_factory=TokenPolicy)
    tokens_then: tuple[TokenPolicy, ...] = ()
    out: str = ""
    seed: int = 0
    quantize: Precision = "none"
    precision: Literal["no", "bf16"] = "no"
    ema_decay: float | None = None
    max_logit_scale: float = 100.0
    activation_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False
    evaluate_on: dict[str, str] = field(default_factory=dict)
    templates: tuple[str, ...] = ("{}",)
    compare_to: str | None = None
    evaluate_every: int = 0
    save_every: int = 1_000
    save_every_minutes: float = 0.0
    log_every: int = 10
    keep_checkpoints: int = 2
    track: Literal["none", "wandb", "trackio"] = "none"

    def __post_init__(self) -> None:
        """Refuse to keep nothing, to log never, and masks or rounding beside what clashes."""
        self.masks.check(self.schedule.num_steps, self.student.stages, self.lock)
        self._check_scores()
        if self.log_every < 1 or self.save_every_minutes < 0:
            raise ValueError(
                f"log_every must be at least 1 and save_every_minutes at least 0, got "
                f"{self.log_every} and {self.save_every_minutes}"
            )
        self._check_quantize()
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}")

    def _check_scores(self) -> None:
        """Refuse masks beside what the moving average says of patches: then there is none."""
        asks_it = [
            policy
            for policy in (self.tokens, *self.tokens_then)
            if policy.drops and policy.image == "attentive" and policy.image_scores == "ema"
        ]
        if self.masks.on and asks_it:
            raise ValueError(
                "masks.keep trains without a moving average, which tokens.image_scores='ema' asks: "
                "take tokens.image_scores='teacher', or drop patches after the masks' run"
            )

    def _check_quantize(self) -> None:
        """Refuse what would compute a part of the step with weights that are not rounded."""
        clashes = {
            "compile": self.compile,
            "activation_checkpointing": self.activation_checkpointing,
            "masks": self.masks.on,
        }
        wrong = [name for name, found in clashes.items() if found]
        if self.quantize != "none" and wrong:
            raise ValueError(
                f"quantize={self.quantize!r} does not go with {' and '.join(wrong)}: train with "
                f"{' and '.join(wrong)} first, then go on from that student with quantize"
            )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """Read `as_json` back.

        Raises:
            ValueError: it names custom terms, whose code is not in it.
        """
        if values["objective"]["custom"]:
            raise ValueError(
                f"this run had custom terms ({', '.join(values['objective']['custom'])}); their "
                "code is the caller's: give the run's own configuration"
            )
        parts = {
            "student": StudentConfig,
            "lock": LockConfig,
            "data": DataConfig,
            "objective": Objective,
            "optimizer": OptimizerConfig,
            "schedule": ScheduleConfig,
            "masks": MaskConfig,
            "watch": WatchConfig,
        }
        captions = CaptionPolicy(**_tuples(values["data"].get("captions", {})))
        weights = ScoreWeights(**values["data"].get("score_weights", {}))
        data = {**values["data"], "captions": captions, "score_weights": weights}
        values = {**values, "data": data}
        built = {name: kind(**_tuples(values.get(name, {}))) for name, kind in parts.items()}
        return cls(**{**_tuples(values), **built, **policies_from_json(values)})

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; custom terms are named, their code is the caller's."""
        plain = dataclasses.replace(self, objective=dataclasses.replace(self.objective, custom={}))
        values = dataclasses.asdict(plain)
        values["objective"]["custom"] = {n: w for n, (w, _) in self.objective.custom.items()}
        return values


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
