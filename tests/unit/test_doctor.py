"""The doctor sees this machine, and each ailment that can be brought about without harm."""

import io
import os
import time

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from distill import doctor
from distill.doctor import Finding
from distill.installed import requirements, unmet


def test_this_machine_is_examined_in_seconds(tmp_path):
    # The processor's time: this must hold on a busy machine too.
    start = time.process_time()
    findings = doctor.diagnose(tmp_path)
    assert time.process_time() - start < 10
    assert not [finding for finding in findings if finding.status == "fail"]
    names = {finding.name for finding in findings}
    assert {"python", "torch", "threads", "disk", "accelerate", "hub", "extra onnx"} <= names
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
    monkeypatch.setattr(doctor, "requirements", lambda *_: [Requirement("no-such-package-xyz")])
    assert [finding.status for finding in doctor.check_packages()] == ["ok", "fail"]
    extras = doctor.check_extras()
    assert {finding.status for finding in extras} == {"ok"}
    assert extras[0].hint == 'pip install "clip-distill[onnx]"'


@pytest.mark.parametrize(
    ("threads", "load", "hint"),
    [(1, 100.0, ""), (10_000, 0.0, "threads that share a core"), (2, 10_000.0, "OMP_NUM_THREADS=")],
)
def test_threads(threads, load, hint):
    finding = doctor.check_threads(threads=threads, load=load)
    assert hint in finding.hint and (finding.status == "warn") == bool(hint)


def test_cores_are_those_this_process_may_use():
    assert 0 < doctor.usable_cores() <= len(os.sched_getaffinity(0))


def test_variables_left_in_the_shell_are_told():
    environment = {"ACCELERATE_USE_CPU": "true", "LOCAL_RANK": "0", "HF_HOME": "/nowhere"}
    finding = doctor.check_accelerate(environment)
    assert finding.status == "warn" and "ACCELERATE_USE_CPU, LOCAL_RANK" in finding.detail


def test_a_default_file_that_silently_runs_one_process_is_told(tmp_path):
    path = tmp_path / "accelerate" / "default_config.yaml"
    path.parent.mkdir()
    path.write_text("distributed_type: 'NO'\nuse_cpu: true\nnum_processes: 2\n")
    finding = doctor.check_accelerate({"HF_HOME": str(tmp_path)})
    assert finding.status == "warn" and "silently gets one" in finding.detail
    assert "ACCELERATE_USE_CPU=true" in finding.hint


def test_accelerate_without_ailments_still_warns_of_the_trap(tmp_path):
    finding = doctor.check_accelerate({"HF_HOME": str(tmp_path)})
    assert finding.status == "ok" and "silently start one process" in finding.detail


def test_triton_interpreter_is_told():
    assert doctor.check_triton({"TRITON_INTERPRET": "1"}).status == "warn"
    assert doctor.check_triton({"TRITON_INTERPRET": "0"}).status == "ok"


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert "GiB free" in doctor.check_disk(tmp_path / "not" / "yet").detail


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
