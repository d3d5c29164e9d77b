"""`distill plan`: what a reinforced dataset will cost, before a long night is spent on it."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import hint_at_gpu, parse
from distill.cli.status import duration
from reinforced_data.codecs.names import DEFAULT_CODEC, CodecName
from reinforced_data.view_policy import ViewPolicy

if TYPE_CHECKING:
    from reinforced_data import Simulation, StorePlan
    from reinforced_data.planning.disk_room import DiskRoom


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Time, device hours, bytes and cost of `distill reinforce`, from a probe of the source.

    A few hundred samples are decoded, embedded and written to a temporary folder; nothing else is
    written. With --json it prints a record; give that file instead of a source to ask again with
    other workers, samples or prices, without a probe.

    Attributes:
        source: shards: a folder, a glob, a brace pattern; or a recorded plan, a .json file.
        out: where the store is to go; exit code 2 when it cannot hold it.
        teachers: as for reinforce.
        precision: of the teachers' weights.
        num_views: views per picture.
        policy: what views are drawn from.
        codec: how embeddings are stored.
        captions_from: the member or JSON field that holds the captions.
        batch_size: views, or texts, per call of a teacher.
        device: where the teachers run.
        probe_samples: how many samples to measure.
        tower_seconds: how long to time each tower, about.
        samples: plan for so many instead of those that the source has.
        samples_per_shard: plan for shards of another size; many small files cost.
        workers: processes, each with a device of its own.
        cores: of each worker; by default this machine's, at most 8.
        price_per_hour: of one worker.
        simulate: run the plan event by event on workers that come and go: finish time, redone
            work, requests to the store, its size.
        shard_seconds: simulate workers that need so long for a shard; by default what the plan
            says of them.
        preemption_hours: simulated mean time between two preemptions of a worker; never by default.
        restart_seconds: simulated mean time until a preempted worker is back.
        request_seconds: simulated time of one request to the store.
        spread: simulated standard deviation of the logarithm of the workers' speeds.
        seed: of the simulation.
    """

    source: Annotated[str, tyro.conf.Positional]
    out: str | None = None
    teachers: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"
    num_views: int = 10
    policy: ViewPolicy = field(default_factory=ViewPolicy)
    codec: CodecName = DEFAULT_CODEC
    captions_from: str | None = None
    batch_size: int = 256
    device: str = "cpu"
    probe_samples: int = 256
    tower_seconds: float = 5.0
    samples: int | None = None
    samples_per_shard: int | None = None
    workers: int | None = None
    cores: float | None = None
    price_per_hour: float | None = None
    simulate: bool = False
    shard_seconds: float | None = None
    preemption_hours: float | None = None
    restart_seconds: float = 300.0
    request_seconds: float = 0.05
    spread: float = 0.1
    seed: int = 0


_REVISED = ("samples", "samples_per_shard", "workers", "cores", "price_per_hour")


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Probe or read a record, and print; exit code 2 when the store does not fit."""
    asked = parse(Plan, "plan", arguments)
    recorded = asked.source.endswith(".json") and Path(asked.source).is_file()
    plan = _recorded(asked) if recorded else _probed(asked, console)
    wanted = {name: getattr(asked, name) for name in _REVISED}
    plan = plan.revised(**{name: value for name, value in wanted.items() if value is not None})
    _print(plan, console)
    values = plan.to_json()
    if asked.simulate:
        simulation = _simulated(plan, asked, console)
        _print_simulation(plan, simulation, console)
        size = {"store_bytes": plan.bytes, "store_files": plan.files}
        values["simulation"] = {**simulation.to_json(), **size}
    if asked.out is None:
        return Outcome(values=values)
    room = plan.room(asked.out)
    _print_room(room, console)
    refusal = plan.refusal(room)
    if refusal is not None:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(refusal)}", soft_wrap=True)
        return Outcome(values={**values, "error": refusal}, exit_code=2)
    return Outcome(values=values)


def _recorded(asked: Plan) -> "StorePlan":
    from reinforced_data import StorePlan

    try:
        content = json.loads(Path(asked.source).read_text())
    except ValueError as error:
        raise ValueError(f"{asked.source} is not JSON: {error}") from error
    plan = StorePlan.from_json(content, asked.source)
    if asked.teachers:
        raise ValueError(f"{asked.source} is a recorded plan: its teachers cannot be changed")
    return plan


def _probed(asked: Plan, console: Console) -> "StorePlan":
    hint_at_gpu(asked.device, console)
    stderr = Console(stderr=True)
    with nullcontext() if console.quiet else stderr.status("loading teachers") as status:
        from distill.model_loading import load_model
        from reinforced_data import plan_store
        from teachers import load_teacher

        began = time.perf_counter()
        teachers = [
            load_teacher(load_model(spec, asked.precision, asked.device)) for spec in asked.teachers
        ]
        return plan_store(
            asked.source,
            teachers=teachers,
            num_views=asked.num_views,
            policy=asked.policy,
            codec=asked.codec,
            captions_from=asked.captions_from,
            batch_size=asked.batch_size,
            start_seconds=time.perf_counter() - began,
            probe_samples=asked.probe_samples,
            tower_seconds=asked.tower_seconds,
            say=lambda what: status.update(what) if status else None,
        )


def _simulated(plan: "StorePlan", asked: Plan, console: Console) -> "Simulation":
    from reinforced_data import Cluster, simulate

    seconds = asked.shard_seconds
    if seconds is None:
        seconds = plan.samples / plan.shards * plan.worker_seconds
    with nullcontext() if console.quiet else Console(stderr=True).status("simulating"):
        return simulate(
            Cluster(
                shards=plan.shards,
                shard_seconds=seconds,
                workers=plan.workers,
                columns=len(plan.columns),
                spread=asked.spread,
                preemption_hours=asked.preemption_hours,
                restart_seconds=asked.restart_seconds,
                request_seconds=asked.request_seconds,
                start_seconds=plan.each_start_seconds,
                seed=asked.seed,
            )
        )


def _print(plan: "StorePlan", console: Console) -> None:
    found = plan.measured
    how = {
        "counted": "counted",
        "estimated": f"estimated from bytes, ± {200 * plan.samples_error:.1f} %",
        "given": "as given",
    }[plan.samples_from]
    console.print(
        f"{plan.source} and others: {plan.samples:,} samples ({how}) in {plan.shards:,} shards; "
        f"{found.samples} were measured",
        highlight=False,
        soft_wrap=True,
    )
    _print_columns(plan, console)
    _print_parts(plan, console)
    _print_sums(plan, console)


def _print_columns(plan: "StorePlan", console: Console) -> None:
    table = _table("column", "bytes a sample", "in all", "±")
    for column in plan.columns:
        error = _size(column.bytes_error) if column.bytes_error else ""
        per_sample = f"{column.bytes_per_sample:,.1f}"
        table.add_row(escape(column.name), per_sample, _size(column.bytes), error)
    per_sample = f"{plan.bytes / plan.samples:,.1f}"
    table.add_section()
    table.add_row("store", per_sample, _size(plan.bytes), _size(plan.bytes_error))
    console.print(table)


def _print_parts(plan: "StorePlan", console: Console) -> None:
    found, kind = plan.measured, "core hours" if plan.on_cpu else "device hours"
    table = _table("part", "rate", kind)
    cores = "core hours" if not plan.on_cpu else ""
    for name, seconds in (
        ("read, decode, render", found.prepare_seconds),
        ("write", found.write_seconds + found.shard_seconds * plan.shards / plan.samples),
    ):
        hours = f"{plan.samples * seconds / 3600:,.2f} {cores}"
        table.add_row(name, f"{1 / seconds if seconds else 0:,.0f} samples/s a core", hours)
    for row in plan.teachers:
        rate = f"{row.views_per_second:,.1f} views/s, {row.texts_per_second:,.1f} texts/s"
        table.add_row(f"{escape(row.teacher)} ({row.device})", rate, f"{row.hours:,.2f}")
    console.print(table)


def _print_sums(plan: "StorePlan", console: Console) -> None:
    each = f"{plan.workers} x {plan.cores:g} cores" + ("" if plan.on_cpu else " and a device")
    rate = plan.workers / plan.worker_seconds
    table = _table("", "")
    table.add_row("workers", f"{each}, waiting for their {plan.waits_for}: {rate:,.0f} samples/s")
    table.add_row("time", f"{duration(plan.wall_seconds)}; {plan.worker_hours:,.2f} worker hours")
    if plan.cost is not None:
        table.add_row("cost", f"{plan.cost:,.2f} at {plan.price_per_hour:g} a worker hour")
    table.add_row("store", f"{_size(plan.bytes)} ± {_size(plan.bytes_error)}, {plan.files:,} files")
    if plan.break_even_epochs is not None:
        epochs = f"after {plan.break_even_epochs:,.1f} epochs, all students together"
        table.add_row("pays", f"{epochs}, against the teachers in every training step")
    console.print(table)


def _print_simulation(plan: "StorePlan", found: "Simulation", console: Console) -> None:
    table = _table("", "")
    table.add_row("simulated", f"{plan.workers:,} workers, {found.preemptions:,} preemptions")
    ideal = f"{duration(found.ideal_seconds)} if nothing failed or waited"
    table.add_row("finish", f"{duration(found.finish_seconds)}; {ideal}")
    table.add_row("the last worker ends", f"after {duration(found.last_worker_seconds)}")
    lost = f"{found.redone:.1%} redone, {found.duplicated:.1%} done by two"
    table.add_row("work lost", f"{lost}, {found.worker_hours:,.1f} worker hours paid")
    if found.quarantined:
        said = "three workers were killed at each; --retry-quarantined"
        table.add_row("quarantined", f"{found.quarantined:,} shards: {said}")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.requests.items())
    table.add_row("requests", kinds)
    rates = found.mean_requests_per_second, found.peak_requests_per_second
    table.add_row("", "{:,.0f} a second on average, {:,.0f} in the busiest minute".format(*rates))
    table.add_row("store", f"{_size(plan.bytes)}, {plan.files:,} files")
    console.print(table)


def _print_room(room: "DiskRoom", console: Console) -> None:
    if room.free_bytes is None:
        console.print(f"{escape(room.out)}: nobody says how much it can hold")
        return
    there = f", {_size(room.present_bytes)} of the store is there" if room.present_bytes else ""
    console.print(f"{escape(room.out)}: {_size(room.free_bytes)} free{there}", highlight=False)


def _table(*names: str) -> Table:
    table = Table(show_header=any(names), box=None, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place and any(names) else "left")
    return table


def _size(count: float | int) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count:,.0f} B"
