"""The doctor sees this machine, and each ailment that can be brought about without harm."""

import io
import json
import os
import time

import pytest
from packaging.requirements import Requirement
from PIL import Image
from rich.console import Console

from distill import doctor
from distill.cli import main
from distill.doctor import Finding, examine, machine, self_check, software
from distill.installed import conflicts, requirements, unmet
from reinforced_data import reinforce
from reinforced_data.testing import tiny_teacher, write_source


def test_this_machine_is_examined_in_seconds(tmp_path):
    # The processor's time: this must hold on a busy machine too.
    start = time.process_time()
    findings = doctor.diagnose(tmp_path)
    assert time.process_time() - start < 10
    assert not [finding for finding in findings if finding.status == "fail"]
    names = {finding.name for finding in findings}
    assert {"python", "torch", "versions", "threads", "disk", "accelerate", "hub"} <= names
    assert {"extra onnx", "compiler", "self-check"} <= names
    assert all(finding.hint for finding in findings if finding.status == "warn")


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(doctor, "check_hub", lambda: 1 / 0)
    findings = {finding.name: finding for finding in doctor.diagnose()}
    assert findings["hub"].status == "fail" and "ZeroDivisionError" in findings["hub"].detail
    assert findings["triton"].status == "ok"


def test_requirements_are_the_metadatas_own():
    base = {wanted.name for wanted in requirements()}
    assert {"torch", "timm", "accelerate"} <= base and "onnx" not in base
    assert {wanted.name for wanted in requirements("onnx")} == {"onnx", "onnxscript", "onnxruntime"}


def test_unmet_requirements_say_what_is_here_and_what_is_wanted():
    assert unmet(Requirement("torch")) == ""
    assert "(<1 wanted)" in unmet(Requirement("torch<1"))
    assert unmet(Requirement("no-such-package-xyz")) == "no-such-package-xyz missing"


def test_a_missing_package_fails_and_a_missing_extra_does_not(monkeypatch):
    monkeypatch.setattr(software, "requirements", lambda *_: [Requirement("no-such-package-xyz")])
    assert [finding.status for finding in software.check_packages()] == ["ok", "fail"]
    extras = software.check_extras()
    assert {finding.status for finding in extras} == {"ok"}
    assert extras[0].hint == 'pip install "clip-distill[onnx]"'


@pytest.mark.parametrize(
    ("threads", "load", "hint"),
    [(1, 100.0, ""), (10_000, 0.0, "threads that share a core"), (2, 10_000.0, "OMP_NUM_THREADS=")],
)
def test_threads(threads, load, hint):
    finding = machine.check_threads(threads=threads, load=load)
    assert hint in finding.hint and (finding.status == "warn") == bool(hint)


def test_cores_are_those_this_process_may_use():
    assert 0 < doctor.usable_cores() <= len(os.sched_getaffinity(0))


def test_variables_left_in_the_shell_are_told():
    environment = {"ACCELERATE_USE_CPU": "true", "LOCAL_RANK": "0", "HF_HOME": "/nowhere"}
    finding = software.check_accelerate(environment)
    assert finding.status == "warn" and "ACCELERATE_USE_CPU, LOCAL_RANK" in finding.detail


def test_a_default_file_that_silently_runs_one_process_is_told(tmp_path):
    path = tmp_path / "accelerate" / "default_config.yaml"
    path.parent.mkdir()
    path.write_text("distributed_type: 'NO'\nuse_cpu: true\nnum_processes: 2\n")
    finding = software.check_accelerate({"HF_HOME": str(tmp_path)})
    assert finding.status == "warn" and "silently gets one" in finding.detail
    assert "ACCELERATE_USE_CPU=true" in finding.hint


def test_accelerate_without_ailments_still_warns_of_the_trap(tmp_path):
    finding = software.check_accelerate({"HF_HOME": str(tmp_path)})
    assert finding.status == "ok" and "silently start one process" in finding.detail


def test_triton_interpreter_is_told():
    assert software.check_triton({"TRITON_INTERPRET": "1"}).status == "warn"
    assert software.check_triton({"TRITON_INTERPRET": "0"}).status == "ok"


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert "GiB free" in machine.check_disk(tmp_path / "not" / "yet").detail


def test_the_table_shows_details_and_hints_as_they_are():
    out = io.StringIO()
    sick = Finding(name="disk", status="warn", detail="[red]0.1 GiB[/red]", hint="make room")
    well = Finding(name="hub", status="ok", detail="fine")
    doctor.print_findings([sick, well], Console(file=out, width=80))
    text = out.getvalue()
    assert "[red]0.1 GiB[/red]" in text and "-> make room" in text and "1 warn" in text
    out = io.StringIO()
    doctor.print_findings([well], Console(file=out, width=80))
    assert "All is well." in out.getvalue()


def test_packages_that_contradict_each_other_are_told(monkeypatch):
    assert conflicts() == [] and software.check_known_bad().status == "ok"
    monkeypatch.setattr(software, "conflicts", lambda: ["torchvision: torch 2.9 (==2.14 wanted)"])
    finding = software.check_known_bad()
    assert (
        finding.status == "fail" and "torch 2.9" in finding.detail and "pip check" in finding.hint
    )


def test_conflicts_are_read_from_what_is_installed(tmp_path, monkeypatch):
    info = tmp_path / "timm-99.dist-info"
    info.mkdir()
    text = "Metadata-Version: 2.1\nName: timm\nVersion: 99\nRequires-Dist: torch<1\n"
    (info / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert any(found.startswith("timm: torch ") and "<1" in found for found in conflicts())


def test_packages_known_to_spoil_pictures_are_told(tmp_path, monkeypatch):
    info = tmp_path / "pillow_simd-9.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow-simd\nVersion: 9.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    finding = software.check_known_bad()
    assert finding.status == "fail" and "pip uninstall pillow-simd" in finding.hint


def test_a_missing_compiler_is_told(monkeypatch):
    assert machine.check_compiler().status == "ok"
    monkeypatch.setenv("CXX", "no-such-compiler-xyz")
    finding = machine.check_compiler()
    assert finding.status == "warn" and "no-such-compiler-xyz" in finding.detail


def test_a_decoder_that_lies_fails_the_self_check(monkeypatch):
    assert self_check.check_itself().status == "ok"
    monkeypatch.setattr(self_check, "decode_image", lambda data: Image.new("RGB", (64, 48)))
    finding = self_check.check_itself()
    assert finding.status == "fail" and finding.detail.startswith("JPEG: simplejpeg and Pillow")


def found(path):
    return {finding.name: finding for finding in examine(path)}


def test_the_health_of_a_store(tmp_path):
    shards = write_source(tmp_path / "source", 12)
    with open(shards[2], "r+b") as file:
        file.truncate(100)
    store = tmp_path / "store"
    reinforce(shards, store, teachers=tiny_teacher(), num_views=1, progress=False)
    well = found(store)
    assert well["progress"].status == "warn" and "2 of 3 shards" in well["progress"].detail
    assert {well[name].status for name in ("data files", "source", "left out")} == {"ok"}
    file = next(store.glob("data/image-*/00001.*.arrow"))
    file.write_bytes(file.read_bytes()[:-8])
    os.rename(shards[0], tmp_path / "elsewhere.tar")
    sick = found(store)
    assert sick["data files"].status == "fail" and file.name in sick["data files"].detail
    assert sick["source"].status == "fail" and "00000.tar" in sick["source"].detail
    assert main(["doctor", str(store)]) == 1


def test_the_health_of_a_run(tmp_path):
    config = {"schedule": {"num_steps": 100}, "data": {"batch_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "log.jsonl").write_text('{"step": 10, "loss/total": 1.0}\n')
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    assert {finding.status for finding in examine(tmp_path)} == {"ok"}
    (tmp_path / "log.jsonl").write_text('{"step": 10, "loss/total": NaN}\n')
    os.utime(tmp_path / "log.jsonl", (0, 0))
    sick = found(tmp_path)
    assert sick["loss"].status == "fail" and "nan" in sick["loss"].detail
    assert sick["progress"].status == "warn" and "the same command resumes" in sick["progress"].hint
    with pytest.raises(ValueError, match="neither a reinforced dataset"):
        examine(tmp_path / "checkpoints")
