"""The torchrun command: one machine takes a free port, several meet where they are told."""

from __future__ import annotations

import pytest
from torch.distributed.run import parse_args

from whet.errors import RecipeError
from whet.launch.torchrun import Machines, check_machines, torchrun_command, torchrun_environment

PROGRAM = ["-m", "whet", "train", "r.yaml", "optim.lr=1e-4", "--resume=auto"]


def parsed(machines: Machines, **others):
    """What torchrun itself understands."""
    settings = {"num_ranks": 8, "max_restarts": 2, "log_folder": "/tmp/logs"} | others
    command = torchrun_command(PROGRAM, machines, **settings)
    assert command[1:3] == ["-m", "torch.distributed.run"]
    return parse_args(command[3:])


def test_torchrun_reads_the_ranks_the_program_and_its_arguments():
    args = parsed(Machines())
    assert (args.nproc_per_node, args.max_restarts, args.tee) == ("8", 2, "3")
    assert (args.module, args.training_script, args.training_script_args) == (True, "whet", PROGRAM[2:])


def test_one_machine_meets_at_a_free_port_of_its_own():
    args = parsed(Machines())
    assert (args.nnodes, args.rdzv_backend, args.rdzv_endpoint) == ("1", "c10d", "localhost:0")


def test_numbered_machines_keep_their_number():
    args = parsed(Machines(num_nodes="2", node_rank=1, address="192.168.1.100", port=29511))
    assert (args.nnodes, args.node_rank, args.rdzv_backend) == ("2", 1, "static")
    assert (args.master_addr, args.master_port) == ("192.168.1.100", 29511)


def test_machines_that_come_and_go_meet_at_one_address():
    args = parsed(Machines(num_nodes="1:2", address="10.0.0.1", port=29511))
    assert (args.nnodes, args.rdzv_backend, args.rdzv_endpoint) == ("1:2", "c10d", "10.0.0.1:29511")
    assert args.rdzv_id == "whet"


@pytest.mark.parametrize(
    "machines",
    [
        Machines(),
        Machines(num_nodes="2", node_rank=1, address="a"),
        Machines(num_nodes="2", address="a"),
        Machines(num_nodes="1:4", address="a"),
    ],
)
def test_machines_that_can_find_each_other_are_accepted(machines):
    check_machines(machines)


@pytest.mark.parametrize(
    ("machines", "what"),
    [
        (Machines(num_nodes="two"), "number or a range"),
        (Machines(num_nodes="0"), "number or a range"),
        (Machines(num_nodes="4:2", address="a"), "begins above its end"),
        (Machines(num_nodes="2", node_rank=0), "where they meet"),
        (Machines(num_nodes="2", node_rank=2, address="a"), "end at 1"),
        (Machines(num_nodes="1:2", node_rank=1, address="a"), "come and go"),
        (Machines(node_rank=1), "one machine"),
    ],
)
def test_machines_that_could_not_are_refused_before_anything_starts(machines, what):
    with pytest.raises(RecipeError, match=what):
        check_machines(machines)


def test_ranks_inherit_the_environment_and_no_nccl_setting_is_invented():
    environment = torchrun_environment({"PATH": "/bin", "OMP_NUM_THREADS": "3"}, num_threads=1)
    assert environment["PATH"] == "/bin"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert not [name for name in environment if name.startswith("NCCL_")]
    assert torchrun_environment({}, num_threads=4)["OMP_NUM_THREADS"] == "4"


def test_ranks_that_were_asked_to_stop_have_longer_than_torchrun_s_half_minute():
    assert int(torchrun_environment({}, num_threads=1)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) >= 300
