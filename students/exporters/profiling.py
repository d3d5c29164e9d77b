"""Time and memory of exported files and of the model itself, each in a process of its own.

Protocol: the process imports the runtime, notes its memory, loads the file, makes `warmup`
unmeasured calls and then `repeats` calls that are timed one by one; median and 95th percentile. The
memory is the most that the process had at one moment, above what it had before the file was loaded.
This machine is no phone: docs/phone.md says how those are timed.

Left out: memory where the system does not tell a process its peak (anything but Linux).
"""

import importlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from students.exporters.formats import FORMATS, Variant
from students.exporters.metadata import METADATA_FILE
from students.exporters.quiet import quiet
from students.profiling import latency_ms

EAGER = ("training", "inference")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How rows are measured.

    Attributes:
        batch_size: rows a call, where a file does not fix them.
        threads: of the runtime, where it lets itself be told.
        warmup: unmeasured calls before.
        repeats: timed calls.
    """

    batch_size: int = 1
    threads: int = 1
    warmup: int = 3
    repeats: int = 20


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """One tower, as the model or as a file.

    Attributes:
        tower: image, text or zero_shot.
        form: training, inference (reparameterised), or FORMAT[:QUANTIZE] of a file.
        path: of the file; None for the model.
        bytes: of the file, or of the tower's weights.
        batch_size: rows a call.
        threads: CPU threads; None where the runtime takes its own number.
        latency_ms: median time of a call.
        latency_p95_ms: its 95th percentile.
        memory_bytes: see above; a model's process holds both of its towers.
    """

    tower: str
    form: str
    path: str | None
    bytes: int
    batch_size: int
    threads: int | None
    latency_ms: float
    latency_p95_ms: float
    memory_bytes: int | None


def exported_files(place: str | Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return an export's folder, and what its metadata says of the files in it or of the one given.

    Raises:
        ValueError: there is no export, or it does not know the file.
    """
    place = Path(place)
    folders = [place] if place.is_dir() else list(place.parents)[:3]
    for folder in folders:
        if (folder / METADATA_FILE).is_file():
            towers = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))["towers"]
            found = [t for t in towers if place in (folder, folder / t["path"])]
            if found:
                return folder, found
    raise ValueError(
        f"{place} is no export and no file of one: give a folder that distill export wrote (it has "
        f"a {METADATA_FILE}), or a file in it that {METADATA_FILE} lists"
    )


def profile_files(
    folder: Path, towers: Sequence[Mapping[str, Any]], protocol: Protocol
) -> Iterator[FileProfile]:
    """Measure files of an export one after the other; those that do not run here are left out.

    Raises:
        RuntimeError: a file does not run; says what its process said.
    """
    for tower in towers:
        variant = Variant(tower["format"], tower["quantize"])
        if variant.backend.open is not None:
            yield _alone(_file, str(folder), str(variant), dict(tower), protocol)


def profile_eager(student: str, protocol: Protocol) -> Iterator[FileProfile]:
    """Measure a student, a folder or a name, as it trains and reparameterised; tower by tower."""
    for tower in ("image", "text"):
        for form in EAGER:
            yield _alone(_eager, student, tower, form, protocol)


def _alone(function: Callable[..., FileProfile], *arguments: Any) -> FileProfile:
    """Run in a process of its own, forked from a clean one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["students.exporters.profiling", "students.api"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(send, function, arguments), daemon=True)
    process.start()
    send.close()
    try:
        found = receive.recv()
    except EOFError:
        process.join()
        found = f"its process ended with exit code {process.exitcode}"
    finally:
        process.join()
    if isinstance(found, FileProfile):
        return found
    raise RuntimeError(f"{' '.join(map(str, arguments[:3]))} cannot be measured: {found}")


def _send(send: Any, function: Callable[..., FileProfile], arguments: tuple) -> None:
    try:
        send.send(function(*arguments))
    except Exception as error:
        send.send(f"{type(error).__name__}: {error}")


def _file(folder: str, form: str, tower: dict[str, Any], protocol: Protocol) -> FileProfile:
    backend = FORMATS[tower["format"]]
    assert backend.open is not None
    with quiet():
        importlib.import_module(backend.runtime)
    rows, *shape = tower["input_shape"]
    rows = protocol.batch_size if rows == "n" else rows
    # Ones are token ids of every vocabulary, and a picture's values change no time.
    batch = np.ones((rows, *shape), tower["input_dtype"])
    before = _memory_now()
    run = backend.open(Path(folder) / tower["path"], threads=protocol.threads)
    median, p95 = latency_ms(lambda: run(batch), protocol.warmup, protocol.repeats)
    return FileProfile(
        tower=tower["tower"],
        form=form,
        path=tower["path"],
        bytes=tower["bytes"],
        batch_size=rows,
        threads=None if backend.own_threads else protocol.threads,
        latency_ms=median,
        latency_p95_ms=p95,
        memory_bytes=_memory_above(before),
    )


def _eager(name: str, tower: str, form: str, protocol: Protocol) -> FileProfile:
    from students.api import build_student, load_student
    from students.student import CONFIG_FILE

    torch.set_num_threads(protocol.threads)
    before = _memory_now()
    saved = (Path(name) / CONFIG_FILE).is_file()
    student = load_student(name) if saved else build_student(name)
    student = student.reparameterize() if form == "inference" else student.eval()
    module = student.image_tower if tower == "image" else student.text_tower
    size, rows = student.preprocess.image_size, protocol.batch_size
    inputs = torch.ones(rows, 3, size, size)
    if tower == "text":
        inputs = student.tokenizer(["a photo of a cat"] * rows)
    with torch.inference_mode():
        median, p95 = latency_ms(lambda: module(inputs), protocol.warmup, protocol.repeats)
    return FileProfile(
        tower=tower,
        form=form,
        path=None,
        bytes=sum(weight.nbytes for weight in module.parameters()),
        batch_size=rows,
        threads=protocol.threads,
        latency_ms=median,
        latency_p95_ms=p95,
        memory_bytes=_memory_above(before),
    )


def _memory_now() -> int | None:
    """Return this process's memory, and let its peak begin anew; None where none is told."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # proc(5): the peak becomes what is resident now
    except OSError:
        return None
    return _status("VmHWM")


def _memory_above(before: int | None) -> int | None:
    return None if before is None else max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    with open(f"/proc/{os.getpid()}/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024
