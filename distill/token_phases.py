"""Which tokens each step of a run computes, and what that costs, as the log reports it.

A run's policies are phases by step: `tokens` up to `tokens.until` of the steps, then each of
`tokens_then` up to its own, then every token, as CLIPA (arXiv:2305.07017) tunes at full resolution
after most of the training. What a step draws is a function of (seed, step, sample's key): a resumed
run, two processes and micro-batches choose the tokens that one run, process and batch does.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice, pairwise
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.config import RunConfig
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.reading.batch import Texts
from students import Student
from students.tokens.choosing import sample_seeds
from students.tokens.policy import ALL_TOKENS, TokenPolicy
from students.tokens.reduction import TokenReduction
from students.tokens.texts import longest, shortened, token_weights
from students.tokens.words import SyntaxTokenizer
from teachers.contract import Tokenizer
from teachers.patch_attention import PatchAttention, attention_tower
from teachers.vision_transformers import Vit

Item = TypeVar("Item")

_COUNTED_CAPTIONS = 100_000


class Phase(NamedTuple):
    """A policy and the last step at which it counts."""

    policy: TokenPolicy
    last: int


def phases(config: RunConfig) -> list[Phase]:
    """The run's policies in order; the last one reaches the last step."""
    total, found = config.schedule.num_steps, list[Phase]()
    for policy in (config.tokens, *config.tokens_then):
        found.append(Phase(policy, round(policy.until * total)))
    if any(later.last <= before.last for before, later in pairwise(found)):
        raise ValueError(
            "tokens.until and the until of each of tokens_then must grow, by a step at least: got "
            f"{[phase.policy.until for phase in found]} of {total} steps"
        )
    return found if found[-1].last >= total else [*found, Phase(ALL_TOKENS, total)]


def policy_at(config: RunConfig, step: int) -> TokenPolicy:
    """The policy of a step, counted from 1."""
    return next((phase.policy for phase in phases(config) if step <= phase.last), ALL_TOKENS)


def phase_by_phase(
    config: RunConfig,
    tokenizer: Tokenizer,
    first: int,
    load: Callable[[Tokenizer, int, int], Iterable[Item]],
) -> Iterable[Item]:
    """Chain the batches of each phase after step `first`; syntax masking is the tokenizer's.

    Args:
        config: the whole run.
        tokenizer: the student's.
        first: steps that are done.
        load: batches with a tokenizer, after one step, up to another.
    """
    spans, start = [], first
    for policy, last in phases(config):
        if last <= start:
            continue
        syntax = policy.text == "syntax"
        chosen = SyntaxTokenizer(tokenizer, policy.text_length) if syntax else tokenizer
        if spans and spans[-1][0] is chosen:  # one loader: its workers read ahead over the border
            spans[-1] = (chosen, spans[-1][1], last)
        else:
            spans.append((chosen, start, last))
        start = last
    if len(spans) == 1:
        return load(*spans[0])
    return chain.from_iterable(load(*span) for span in spans)


def attention_wanted(config: RunConfig) -> bool:
    """Whether a phase goes by the attention that a teacher left in the store."""
    policies = [phase.policy for phase in phases(config)]
    return any(p.drops and p.image == "attentive" and p.image_scores == "teacher" for p in policies)


class Chosen(NamedTuple):
    """What one step computes of its batch."""

    batch: Batch
    seeds: Int64[Tensor, " n"]


class _Cost:
    """Seconds and tokens of some steps."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.text = 0, 0.0, 0
        self.image: float | None = 0.0

    def add(self, seconds: float, image: float | None, text: int) -> None:
        self.steps, self.seconds, self.text = (
            self.steps + 1,
            self.seconds + seconds,
            self.text + text,
        )
        self.image = None if image is None or self.image is None else self.image + image

    def means(self) -> dict[str, float]:
        steps = max(1, self.steps)
        found = {"step_seconds": self.seconds / steps, "tokens/text": self.text / steps}
        return found if self.image is None else {**found, "tokens/image": self.image / steps}


class TokenSteps:
    """The tokens of a run's steps.

    Args:
        student: its towers are made ready.
        config: the whole run.
        ema: the moving average, which scores patches where a policy wants it to.

    Raises:
        ValueError: the student cannot do what a policy says, or there is nothing to score with.
    """

    def __init__(self, student: Student, config: RunConfig, ema: nn.Module | None = None) -> None:
        """Check every phase before the first step."""
        self.config, self._student = config, student
        policies = [phase.policy for phase in phases(config)]
        self.reduction = TokenReduction(student, policies)
        self.policy = ALL_TOKENS
        self.weights: Tensor | None = None
        self._looks: Vit | None = None
        self._ema = ema
        scored = [p for p in policies if p.drops and p.image == "attentive"]
        if any(policy.image_scores == "ema" for policy in scored):
            if not isinstance(ema, Student):
                raise ValueError(
                    "tokens.image_scores='ema' asks the run's moving average: switch it on with "
                    "--ema-decay 0.996 (A-CLIP's), or take tokens.image_scores='teacher'"
                )
            self._looks = attention_tower(ema.module, ema.name)
        self._text_length = 0
        self._costs: dict[TokenPolicy, _Cost] = {}
        self._since_log = _Cost()

    @property
    def needs_frequencies(self) -> bool:
        """Whether a phase weighs tokens by how rare they are."""
        return any(phase.policy.text == "frequency" for phase in phases(self.config))

    def count(self, dataset: ReinforcedDataset) -> None:
        """Count the tokens of the store's first captions, where a phase weighs by that."""
        if self.needs_frequencies:
            tokenizer = self._student.tokenizer
            captions = islice(dataset.captions(), _COUNTED_CAPTIONS)
            rows = (tokenizer(texts) for texts in _chunks(captions, 1_024))
            self.weights = token_weights(rows, tokenizer.vocab_size)

    def begin(self, batch: Batch, step: int) -> Chosen:
        """Take up a step's policy; cut texts that are padded further than they need to be.

        Here the batch is still on the CPU: asking a device how long its texts are would wait.
        """
        self.policy = policy_at(self.config, step)
        seeds = sample_seeds(self.config.seed, step, batch.keys)
        if self.policy.text_padding == "longest":
            length = longest([texts.tokens for texts in batch.texts])
            texts = tuple(_cut(one, length) for one in batch.texts)
            batch = replace(batch, texts=texts)
        return Chosen(batch, seeds)

    def texts(
        self, tokens: Int64[Tensor, "n context"], seeds: Int64[Tensor, " n"], number: int
    ) -> Int64[Tensor, "n fewer"]:
        """The tokens of each text that this step computes; `number` of a sample's several texts."""
        policy = self.policy
        if policy.text not in ("all", "syntax"):
            weights = self.weights
            if weights is not None and weights.device != tokens.device:
                weights = self.weights = weights.to(tokens.device)
            seeds = seeds + number
            tokens = shortened(tokens, policy.text, policy.text_length, seeds, weights)
        self._text_length = tokens.shape[1]
        return tokens

    def patches(
        self,
        images: Float[Tensor, "n 3 h w"],
        seeds: Int64[Tensor, " n"],
        attention: Tensor | None,
    ) -> Int64[Tensor, "n kept"] | None:
        """The patches of each picture that stay, or None for all.

        Args:
            images: normalised, whole.
            seeds: of each sample.
            attention: the store's, where the policy wants it.
        """
        policy, scores = self.policy, None
        if policy.drops and policy.image == "attentive":
            scores = self._scores(images) if policy.image_scores == "ema" else attention
            assert scores is not None
            scores = scores.float()
        return self.reduction.choose(policy, seeds, scores)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count a step's seconds, forward to clipped gradients, and its tokens."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        for cost in (self._costs.setdefault(self.policy, _Cost()), self._since_log):
            cost.add(seconds, self.reduction.image_tokens(self.policy), self._text_length)

    def scalars(self) -> dict[str, float]:
        """What a step has cost on average since this was last asked, for the log."""
        found, self._since_log = self._since_log, _Cost()
        return found.means() | {"peak_memory_bytes": _peak_memory()}

    def costs(self) -> list[dict[str, float]]:
        """What a step has cost in each phase, in order: steps, means, the most memory so far."""
        return [{"steps": float(cost.steps), **cost.means()} for cost in self._costs.values()]

    def detach(self) -> None:
        """Leave the towers as they were."""
        self.reduction.detach()

    @torch.no_grad()
    def _scores(self, images: Tensor) -> Tensor:
        """What the moving average looks at, all blocks together (A-CLIP)."""
        assert self._looks is not None and isinstance(self._ema, Student)
        self._ema.eval()
        # Listened to for this batch alone: an evaluation goes through the same tower.
        watched = PatchAttention(self._looks)
        try:
            self._ema.module.encode_image(images)
            return watched.take()
        finally:
            watched.detach()


def _cut(texts: Texts, length: int) -> Texts:
    return texts._replace(tokens=texts.tokens[:, :length])


def _chunks(items: Iterator[str], size: int) -> Iterator[Sequence[str]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _peak_memory() -> float:
    """Of the accelerator where there is one, else of this process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)
