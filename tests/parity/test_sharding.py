"""A student in shards on two processes (FSDP2 over gloo) = the whole one on one process."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from distill import Objective, train
from distill.accelerate_configs import config_path
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.gradient_cache import MicroBatch, cached_backward
from distill.lock_config import LockConfig
from distill.mask_config import MaskConfig
from distill.run_log import read_log
from distill.sharding import Sharding, check_can_shard, sharding_plugin
from distill.shards import gathered
from distill.testing import end, start
from distill.training_module import Taught, TrainingModule
from reinforced_data import reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student, load_student
from students.tokens.policy import TokenPolicy
from teachers.clip_model import unit_rows
from teachers.contract import Embeddings

SPEC = StudentSpec(
    image="test_vit",
    text=TextSpec(width=16, layers=2, heads=2, context_length=TOKENIZER.context_length),
    embed_dim=16,
    image_size=64,
)
SHARES = (5, 3)
MICRO_SIZES = (0, 2)
LAUNCH = {  # what `accelerate launch` makes of fsdp2.yaml
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "30000",  # the blocks of the image tower; text goes with the rest
}
TOKENS = TokenPolicy(image="random", image_keep=0.5, text="truncate", text_length=5, until=0.5)
RUN = RunConfig(
    data=DataConfig(batch_size=8, num_workers=0),
    objective=Objective(contrastive=0.3, affinity=0.7, feature=1.0),
    # A large epsilon: Adam divides rounding errors by themselves where gradients vanish.
    optimizer=OptimizerConfig(lr=1e-2, eps=1e-3, max_grad_norm=0.5),
    schedule=ScheduleConfig(num_steps=4, warmup_steps=1),
    log_every=1,
    save_every=2,
)
RUNS = {
    "plain": replace(RUN, objective=replace(RUN.objective, fastclip=0.5)),
    "average-tokens-decay": replace(
        RUN,
        ema_decay=0.5,
        tokens=TOKENS,
        tokens_then=(TokenPolicy(image="merge", image_keep=0.5, until=0.75),),
        optimizer=replace(RUN.optimizer, image_layer_decay=0.7),
        data=replace(RUN.data, micro_batch_size=2),
        activation_checkpointing=True,
    ),
    "lion": replace(RUN, optimizer=OptimizerConfig(name="lion", lr=1e-4)),
    "locked": replace(RUN, lock=LockConfig(tower="text")),
}


RESUMED = "average-tokens-decay"


def vit_student():
    torch.manual_seed(5)
    return build_student(SPEC, tokenizer=TOKENIZER)


def norm_student():
    """Convolutions with BatchNorm."""
    torch.manual_seed(5)
    return build_student(replace(SPEC, image="smallconv-4", image_size=16), tokenizer=TOKENIZER)


TWO_STEPS = replace(RUN, schedule=ScheduleConfig(num_steps=2, warmup_steps=1))
STORED = "stored"
BESIDE_DDP = {
    STORED: (replace(TWO_STEPS, lock=LockConfig(stored_image="a")), vit_student),
    "norms": (TWO_STEPS, norm_student),
    "bf16": (replace(RUN, precision="bf16"), vit_student),
    "bf16-locked": (
        replace(TWO_STEPS, precision="bf16", lock=LockConfig(tower="image")),
        vit_student,
    ),
}


def batch() -> tuple[torch.Tensor, torch.Tensor, Taught]:
    draw = torch.Generator().manual_seed(11)
    total = sum(SHARES)
    images = torch.randn(total, 3, 64, 64, generator=draw, dtype=torch.float64)
    tokens = torch.randint(1, TOKENIZER.vocab_size, (total, 8), generator=draw)
    image, text = (torch.randn(total, 12, generator=draw, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor(20.0, dtype=torch.float64)
    teacher = Embeddings(unit_rows(image), unit_rows(text), scale)
    return images, tokens, Taught([teacher], torch.arange(total))


def gradients(accelerator: Accelerator, size: int, share: slice) -> dict[str, torch.Tensor]:
    """Terms and whole gradients of a batch, in micro-batches of a size or at once."""
    student = vit_student()
    assert student.tower_names  # found in float32
    student.double()
    torch.manual_seed(3)
    module = TrainingModule(student, RUN.objective.build(student.embed_dim, [12])).train()
    plugin, sharding = sharding_plugin(accelerator), None
    if plugin is not None:
        sharding = Sharding(student, plugin, accelerator)
        sharding.cut(student)
        cut = [m for m in student.modules() if isinstance(m, FSDPModule)]
        whole = [n for n, p in student.named_parameters() if not isinstance(p, DTensor)]
        assert len(cut) > 3 and whole == ["module.logit_scale"]
    group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
    images, tokens, taught = batch()
    (teacher,) = taught.teachers
    mine = teacher._replace(image=teacher.image[share], text=teacher.text[share])
    images, tokens, ids = images[share], tokens[share], taught.caption_ids[share]
    if size:
        count = -(-max(SHARES) // size)  # as many on each process: each forward gathers
        cuts = pairwise(len(images) * number // count for number in range(count + 1))
        parts = [
            MicroBatch(images=images[i:j], tokens=[tokens[i:j]], seed=i, kept=None) for i, j in cuts
        ]
        taught = [Taught([mine], ids)]
        terms = cached_backward(module, parts, accelerator=accelerator, taught=taught, group=group)
    else:
        terms = module(images, [tokens], [Taught([mine], ids)], group=group)
        terms["total"].backward()
    if sharding is not None:
        sharding.average(module.parameters())
    grads = {n: p.grad for n, p in module.named_parameters()}
    assert all(gradient is not None for gradient in grads.values())
    found = {n: gathered(g).clone() for n, g in grads.items() if g is not None}
    return found | {name: value.detach() for name, value in terms.items()}


def work(rank: int, folder: str) -> None:
    """One of two processes: gradients, whole runs, and the second half of one of them again."""
    torch.set_num_threads(1)
    os.environ |= LAUNCH | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    accelerator, before = Accelerator(cpu=True), sum(SHARES[:rank])
    share = slice(before, before + SHARES[rank])
    found = {size: gradients(accelerator, size, share) for size in MICRO_SIZES}
    torch.save(found, f"{folder}/{rank}.pt")
    for name, config in RUNS.items():
        out = Path(folder) / name
        result = train(vit_student(), f"{folder}/store", recipe=config, out=out, show=False)
        weights = result.student.module.state_dict()
        torch.save(dict(weights), f"{folder}/{name}-{rank}.pt")
    again = Path(folder) / "again"
    if rank == 0:
        half(Path(folder) / RESUMED, again)
    torch.distributed.barrier()
    train(vit_student(), f"{folder}/store", recipe=RUNS[RESUMED], out=again, show=False)
    for name, (config, build) in BESIDE_DDP.items():
        for sharded, ending in (("true", ""), ("false", "-ddp")):
            os.environ["ACCELERATE_USE_FSDP"] = sharded
            out, student = f"{folder}/{name}{ending}", build()
            teachers = [tiny_teacher("a", seed=1)] if config.lock.sides else []
            given = {"recipe": config, "out": out, "teachers": teachers, "show": False}
            train(student, f"{folder}/store", **given)
            # A student without an encoder is another one than the one given.
            assert isinstance(student, FSDPModule) == (sharded == "true" and name != STORED)
    torch.distributed.destroy_process_group()


def half(out: Path, again: Path) -> None:
    """A run's folder as it was after two of four steps."""
    again.mkdir()
    shutil.copy(out / "config.json", again)
    name = "checkpoints/step-00000002"
    shutil.copytree(out / name, again / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharding")
    source = write_source(folder / "source", 24, samples_per_shard=10)
    teachers = [tiny_teacher("a", seed=1), tiny_teacher("b", seed=2, embed_dim=12)]
    reinforce(source, folder / "store", teachers=teachers, num_views=2, progress=False)
    processes = [start(work, rank, str(folder)) for rank in range(2)]
    for process in processes:
        process.join(900)  # they wait for each other at every block: slow on a busy machine
    assert [end(process) for process in processes] == [0, 0]
    return folder


@pytest.mark.parametrize("size", MICRO_SIZES)
def test_loss_and_gradients_are_those_of_one_process(world, size):
    expected = gradients(Accelerator(cpu=True), size, slice(None))
    for rank in range(2):
        found = torch.load(world / f"{rank}.pt")[size]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert max(value.abs().max() for value in expected.values()) > 1e-2


@pytest.mark.parametrize("name", RUNS)
def test_a_sharded_run_ends_where_one_process_does(world, name, tmp_path):
    train(vit_student(), world / "store", recipe=RUNS[name], out=tmp_path / "one", show=False)
    one, two = (load_file(f / "model.safetensors") for f in (tmp_path / "one", world / name))
    first, second = (torch.load(world / f"{name}-{rank}.pt") for rank in range(2))
    start = vit_student().module.state_dict()
    assert max((value - start[key]).abs().max() for key, value in one.items()) > 3e-4
    apart = torch.cat([(two[key] - value).flatten() for key, value in one.items()]).abs()
    if name == "lion":  # its step is a sign: a gradient of rounding errors may go either way
        assert (apart > 2e-6).float().mean() < 0.01 and apart.max() <= 8e-4 + 1e-6
    else:
        assert apart.max() <= 2e-6
    for key, value in two.items():
        assert torch.equal(first[key], value) and torch.equal(second[key], value)


def test_a_resumed_sharded_run_is_the_undisturbed_one_bit_for_bit(world):
    whole, again = (load_file(world / n / "model.safetensors") for n in (RESUMED, "again"))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_batch_norm_is_as_under_ddp(world):
    sharded, ddp = (load_file(world / n / "model.safetensors") for n in ("norms", "norms-ddp"))
    start = norm_student().module.state_dict()
    moved = [n for n in ddp if n.endswith("running_mean") and not torch.equal(ddp[n], start[n])]
    assert moved
    for key, value in ddp.items():
        torch.testing.assert_close(sharded[key], value, rtol=0, atol=2e-6)


def test_a_side_that_is_in_the_store_is_as_under_ddp(world):
    """The encoder is put in when the training is over, and is the teacher's."""
    sharded, ddp = (
        load_file(world / name / "model.safetensors") for name in (STORED, f"{STORED}-ddp")
    )
    start, teacher = (
        vit_student().module.state_dict(),
        tiny_teacher("a", seed=1).module.state_dict(),
    )
    moved, kept = 0, 0
    for name, value in ddp.items():
        torch.testing.assert_close(sharded[name], value, rtol=0, atol=2e-6)
        own = name.removeprefix("text.encoder.module.")
        moved += own in start and not torch.equal(start[own], sharded[name])
        own = name.removeprefix("image.encoder.module.")
        kept += own in teacher and torch.equal(teacher[own], sharded[name])
    assert moved > 5 and kept >= 1


@pytest.mark.parametrize("name", ["bf16", "bf16-locked"])
def test_bf16_is_as_under_ddp(world, name):
    """The same rows in the same kernels: only the order in which gradients are added differs."""
    sharded, ddp = (
        [line["loss/total"] for line in read_log(world / n) if "loss/total" in line]
        for n in (name, f"{name}-ddp")
    )
    assert len(sharded) >= 2 and sharded[0] == pytest.approx(ddp[0], rel=1e-6)
    # Weights that differ by an order of addition are rounded to bfloat16, whose step is 2^-8; on a
    # processor without bfloat16 products the third loss was 1.1e-3 away.
    assert sharded == pytest.approx(ddp, rel=2**-8)
    exact = [line["loss/total"] for line in read_log(world / "locked") if "loss/total" in line]
    assert sharded[0] != exact[0]  # it was not float32
    first, second = (load_file(world / n / "model.safetensors") for n in (name, f"{name}-ddp"))
    start, moved, apart = vit_student().module.state_dict(), 0.0, 0.0
    for key, value in second.items():
        assert value.dtype == torch.float32
        moved += (value - start[key]).square().sum().item()
        apart += (first[key] - value).square().sum().item()
    assert moved > 0 and apart**0.5 <= 0.02 * moved**0.5


@pytest.mark.parametrize(("name", "tower"), [("locked", "text"), ("bf16-locked", "image")])
def test_a_locked_tower_stays_and_is_in_no_optimizer(world, name, tower):
    student = vit_student()
    locked, start = student.tower_names[tower], dict(student.module.named_parameters())
    saved = load_file(world / name / "model.safetensors")
    for key, value in start.items():
        assert torch.equal(value, saved[key]) == (key in locked), key
    step = "step-00000004" if name == "locked" else "step-00000002"
    state = load_file(world / name / "checkpoints" / step / "tensors.safetensors")
    kept = [key for key in state if key.startswith("optimizer/") and key.endswith("exp_avg")]
    learned = start.keys() - locked
    adapters = [key for key in state if key.startswith("model/objective.")]
    assert len(kept) == len(learned) + len(adapters)


def test_a_sharded_runs_checkpoint_goes_on_without_shards(world, tmp_path):
    half(world / "plain", tmp_path / "out")
    config = RUNS["plain"]
    train(vit_student(), world / "store", recipe=config, out=tmp_path / "out", show=False)
    mine, theirs = (load_student(folder) for folder in (tmp_path / "out", world / "plain"))
    for key, value in theirs.module.state_dict().items():
        found = mine.module.state_dict()[key]
        torch.testing.assert_close(found, value, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"compile": True}, "--no-compile"),
        ({"channels_last": True}, "--no-channels-last"),
        ({"masks": MaskConfig(keep=0.5, steps=2, warmup_steps=1)}, "--masks.keep 1"),
        ({"optimizer": OptimizerConfig(name="lamb")}, "take adamw or lion"),
        (
            {
                "tokens": TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema"),
                "ema_decay": 0.9,
            },
            "image_scores",
        ),
    ],
)
def test_what_does_not_go_with_shards_is_refused_with_a_way_out(changes, said):
    with pytest.raises(ValueError, match="a sharded student") as error:
        check_can_shard(replace(RUN, **changes))
    assert said in str(error.value) and "accelerate ddp" in str(error.value)


@pytest.mark.slow
def test_the_shipped_configuration_shards_on_the_cpu_too(world, tmp_path):
    """Through `accelerate launch` and the command line; without shards the probe would fail."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from torch.distributed.fsdp import FSDPModule\n"
        "from distill import stepping\n"
        "from distill.cli import main\n"
        "step = stepping.Stepper.step\n"
        "def checked(self, batch, number):\n"
        "    assert isinstance(self.student, FSDPModule)\n"
        "    return step(self, batch, number)\n"
        "stepping.Stepper.step = checked\n"
        "sys.exit(main())\n"
    )
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(config_path("fsdp2"))]
    command = [sys.executable, *launch, "--num_processes", "2", str(script), "train", "demo"]
    command += ["--data.store", str(world / "store"), "--out", str(tmp_path / "out")]
    command += ["--schedule.num-steps", "2", "--schedule.warmup-steps", "1"]
    command += ["--data.batch-size", "8", "--no-channels-last", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_student(tmp_path / "out").encode_text(["a red picture"]).shape[0] == 1
