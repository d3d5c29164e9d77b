"""Each file means what its comment says, by accelerate's own reading and by real launches."""

import os
import socket
import subprocess
import sys

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import determine_local_world_size

from distill.accelerate_configs import CONFIGS, config_path, launch_environment

SCRIPT = """
import torch
from accelerate import Accelerator
accelerator = Accelerator()
total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]), "sum")
line = f"[{accelerator.num_processes} {accelerator.device.type} {total.item():g}]"
print(line, flush=True)
accelerator.end_training()
"""


def launch_args(name, *flags):
    line = ["--config_file", str(config_path(name)), *flags, "train.py"]
    return _validate_launch_command(launch_command_parser().parse_args(line))[0]


def start(name, script, *flags):
    line = ["accelerate.commands.accelerate_cli", "launch", "--config_file", str(config_path(name))]
    return subprocess.Popen(
        [sys.executable, "-m", *line, *flags, str(script)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | launch_environment(name),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def test_every_file_has_a_name_and_every_name_a_file():
    assert {path.stem for path in config_path("cpu").parent.glob("*.yaml")} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(str(config_path(name)))
    assert config.use_cpu == name.startswith("cpu")
    assert (config.distributed_type == DistributedType.NO) == (name in ("cpu", "gpu"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_comment_says_how_to_launch(name):
    text = config_path(name).read_text()
    assert f"--config_file $(distill show accelerate {name})" in text
    for variable, value in launch_environment(name).items():
        assert f"{variable}={value} accelerate launch" in text


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_heeds_every_key_of_the_file(name):
    # A value that the parser has a default for is read from the file and then ignored.
    args = vars(launch_args(name, *(["--num_processes", "4"] if name == "multi_node" else [])))
    written = yaml.safe_load(config_path(name).read_text())
    flat = written | written.pop("fsdp_config", {})
    for key in flat.keys() - {"compute_environment", "distributed_type"}:
        assert args[key] == flat[key], key


@pytest.mark.parametrize(("name", "processes"), [("cpu", 1), ("gpu", 1), ("cpu2", 2)])
def test_launcher_takes_the_number_of_processes_from_the_file(name, processes):
    args = launch_args(name)
    assert args.num_processes == processes
    assert args.multi_gpu == (processes > 1)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_one_process_for_each_gpu(name, monkeypatch):
    args = launch_args(name)
    prepare_multi_gpu_env(args)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert determine_local_world_size(args.nproc_per_node) == 5
    args = launch_args(name, "--num_processes", "3")
    prepare_multi_gpu_env(args)
    assert determine_local_world_size(args.nproc_per_node) == 3


def test_multi_node_asks_for_the_number_of_processes():
    with pytest.raises(ValueError, match="num_processes"):
        launch_args("multi_node")


def test_multi_node_divides_the_processes_over_the_machines():
    flags = ("--num_processes", "12", "--num_machines", "3", "--machine_rank", "2")
    args = launch_args("multi_node", *flags, "--main_process_ip", "10.0.0.1")
    prepare_multi_gpu_env(args)
    assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("4", "3", 2)
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "10.0.0.1:29500")


def test_fsdp2_is_version_2_and_sharded(monkeypatch, caplog):
    args = launch_args("fsdp2")
    assert args.use_fsdp
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert plugin.auto_wrap_policy is not None and plugin.min_num_params == 1_000_000
    assert not plugin.cpu_ram_efficient_loading
    assert not caplog.records


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'fsdp2'"):
        config_path("fsdp")


@pytest.mark.parametrize("name", ["../cpu", "", "/etc/passwd"])
def test_a_path_is_not_a_name(name):
    with pytest.raises(ValueError, match="no accelerate config"):
        config_path(name)


@pytest.mark.slow
def test_cpu_launches_one_process(script):
    assert "[1 cpu 1]" in finish(start("cpu", script))


@pytest.mark.slow
def test_cpu2_launches_two_processes_that_know_each_other(script):
    assert finish(start("cpu2", script)).count("[2 cpu 3]") == 2


@pytest.mark.slow
def test_multi_node_launches_on_two_machines(script, monkeypatch):
    # Both "machines" are this one; gloo stands in for NCCL.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = ("--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1")
    flags = (*flags, "--main_process_port", port, "--machine_rank")
    launches = [start("multi_node", script, *flags, rank) for rank in ("0", "1")]
    assert all("[2 cpu 3]" in finish(launch) for launch in launches)
