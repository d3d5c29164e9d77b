"""One batch = its parts on 1, 2 and 4 processes = its micro-batches, in float64."""

import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill import Objective
from distill.gradient_cache import MicroBatch, cached_backward
from distill.testing import end, start
from distill.training_module import Taught, TrainingModule
from reinforced_data.testing import TOKENIZER, TinyEncoder
from students import build_student
from teachers.clip_model import unit_rows
from teachers.contract import Embeddings

TOTAL = 13
SHARES = {1: (13,), 2: (8, 5), 4: (4, 1, 6, 2)}
MICRO_SIZES = (0, 1, 3, 5)
OBJECTIVES = {
    "softmax": Objective(contrastive=0.3, affinity=0.7, feature=1.0, teacher_scale=0.5),
    "mean_logit": Objective(contrastive=0.3, affinity=0.7, targets="mean_logit"),
    "feature alone": Objective(contrastive=0.0, feature=1.0),
    "sigmoid": Objective(contrastive=0.3, affinity=0.7, feature=0.5),
    "two texts": Objective(contrastive=0.3, affinity=0.7, feature=1.0),
}


class Deep(TinyEncoder):
    """Two layers with what a test asks for between them."""

    def __init__(self, between: nn.Module, *, sigmoid: bool = False) -> None:
        super().__init__(seed=5, sigmoid=sigmoid)
        torch.manual_seed(7)
        self.first, self.between = nn.Linear(48, 48), between

    def encode_image(self, images: Tensor, /) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return self.between(self.first(pooled)).tanh() @ self.image


def build(objective: str, between: nn.Module | None = None) -> TrainingModule:
    module = Deep(between or nn.Identity(), sigmoid=objective == "sigmoid")
    student = build_student(module, image_size=16, tokenizer=TOKENIZER)
    torch.manual_seed(3)
    built = OBJECTIVES[objective].build(student.embed_dim, [12, 16])
    return TrainingModule(student, built).double().train()


def batch(objective: str) -> tuple[Tensor, list[Tensor], list[Taught]]:
    """Pictures, and one text of each; for an objective that adds up, two."""
    draw = torch.Generator().manual_seed(11)
    images = torch.randn(TOTAL, 3, 16, 16, generator=draw, dtype=torch.float64)
    tokens, taught = [], []
    for _ in range(2 if objective == "two texts" else 1):
        tokens.append(torch.randint(1, TOKENIZER.vocab_size, (TOTAL, 8), generator=draw))
        taught.append(teaching(objective, draw))
    return images, tokens, taught


def teaching(objective: str, draw: torch.Generator) -> Taught:
    bias = torch.tensor(-3.0, dtype=torch.float64) if objective == "sigmoid" else None
    teachers = []
    for width in (12, 16):
        rows = [torch.randn(TOTAL, width, generator=draw, dtype=torch.float64) for _ in range(2)]
        scale = torch.tensor(20.0, dtype=torch.float64)
        teachers.append(Embeddings(unit_rows(rows[0]), unit_rows(rows[1]), scale, bias))
    # Two captions are equal, on different processes.
    ids = torch.arange(TOTAL)
    ids[-1] = ids[0]
    return Taught(teachers, ids)


def part(values: tuple, start: int, end: int) -> tuple:
    images, tokens, taught = values
    cut = [
        Taught(
            [t._replace(image=t.image[start:end], text=t.text[start:end]) for t in one.teachers],
            one.caption_ids[start:end],
        )
        for one in taught
    ]
    return images[start:end], [part[start:end] for part in tokens], cut


def micro(images: Tensor, tokens: list[Tensor], size: int) -> list[MicroBatch]:
    return [
        MicroBatch(
            images=images[i : i + size],
            tokens=[part[i : i + size] for part in tokens],
            seed=100 + i,
        )
        for i in range(0, len(images), size)
    ]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in module.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def one_case(accelerator: Accelerator, objective: str, size: int, start: int, end: int) -> dict:
    module = build(objective)
    wrapped = accelerator.prepare(module)
    group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
    images, tokens, taught = part(batch(objective), start, end)
    if size == 0:
        terms = wrapped(images, tokens, taught, group=group)
        accelerator.backward(terms["total"])
    else:
        terms = cached_backward(
            wrapped,
            micro(images, tokens, size),
            accelerator=accelerator,
            taught=taught,
            group=group,
        )
    values = {name: value.detach() for name, value in terms.items()}
    return values | gradients(module)


def work(rank: int, size: int, folder: str) -> None:
    """One process of a group: every case, its terms and gradients written down."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size
    )
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == size
    start = sum(SHARES[size][:rank])
    found = {
        (objective, micro_size): one_case(
            accelerator, objective, micro_size, start, start + SHARES[size][rank]
        )
        for objective in OBJECTIVES
        for micro_size in MICRO_SIZES
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def run_processes(size: int, folder: Path) -> list[dict]:
    processes = [start(work, rank, size, str(folder)) for rank in range(size)]
    assert [end(process) for process in processes] == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Tensor]]:
    """The plain path: one process, one batch, one backward."""
    found = {}
    for objective in OBJECTIVES:
        module = build(objective)
        terms = module(*batch(objective))
        terms["total"].backward()
        found[objective] = {n: v.detach() for n, v in terms.items()} | gradients(module)
    return found


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0.1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_and_micro_batches_equal_one_batch(whole, tmp_path, size):
    """Ragged shares, a share of one row, micro-batches that do not divide."""
    for found in run_processes(size, tmp_path):
        for (objective, _), values in found.items():
            assert_equal(values, whole[objective])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [1, 4, 12])
def test_micro_batches_equal_one_batch(whole, objective, size):
    assert_equal(one_case(Accelerator(cpu=True), objective, size, 0, TOTAL), whole[objective])


BETWEEN = {
    "dropout": lambda: nn.Dropout(0.4),
    "batch norm": lambda: nn.BatchNorm1d(48),
    "batch norm, cumulative": lambda: nn.BatchNorm1d(48, momentum=None),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_dropout_is_replayed_and_batch_norm_sees_each_micro_batch_once(between):
    """Against the same micro-batches with every graph kept, which is what memory forbids."""
    images, tokens, taught = batch("softmax")
    kept, cached = (build("softmax", BETWEEN[between]()) for _ in range(2))
    rows = []
    for piece in micro(images, tokens, 5):
        torch.manual_seed(piece.seed)
        rows.append(kept.student(piece.images, piece.tokens[0]))
    joined = rows[0]._replace(
        image=torch.cat([r.image for r in rows]), text=torch.cat([r.text for r in rows])
    )
    kept.objective(joined, taught[0].teachers, taught[0].caption_ids)["total"].backward()
    cached_backward(
        cached,
        micro(images, tokens, 5),
        accelerator=Accelerator(cpu=True),
        taught=taught,
        group=None,
    )
    assert_equal(gradients(cached), gradients(kept))
    for name, value in kept.named_buffers():
        torch.testing.assert_close(dict(cached.named_buffers())[name], value, msg=name)
    if between != "dropout":
        counted = dict(cached.named_buffers())["student.module.between.num_batches_tracked"]
        assert int(counted) == 3


def test_two_texts_are_the_sum_of_each_alone(whole):
    """MobileCLIP's loss: original and written captions, the pictures embedded once."""
    images, tokens, taught = batch("two texts")
    alone = []
    for number in range(2):
        module = build("two texts")
        terms = module(images, [tokens[number]], [taught[number]])
        terms["total"].backward()
        alone.append({n: v.detach() for n, v in terms.items()} | gradients(module))
    summed = {name: value + alone[1][name] for name, value in alone[0].items()}
    assert not torch.equal(alone[0]["total"], alone[1]["total"])
    assert_equal(whole["two texts"], summed)
