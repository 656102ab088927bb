# SPDX-License-Identifier: Apache-2.0
"""What runs in the child processes of these tests: the CPU layer changes torch for a whole process,
so the process of pytest never has it.

Imported once by multiprocessing's fork server, which makes each child a fork of it: torch and
Megatron are there at once, and what a test changes in them ends with the child.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import multiprocessing
import os
import traceback
import warnings

import torch

from t3s_megatron.megatron.device import install_megatron_layer, install_torch_layer
from tests.support.ranks import IMPORTED

#: Where cuda_packages/ has these, as a machine with GPUs does.
FOUND = {
    package
    for package in ("transformer_engine", "apex", "amp_C")
    if importlib.machinery.PathFinder.find_spec(package)
}

torch.set_num_threads(1)
install_torch_layer()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Transformer Engine and Apex are missing, as they should
    install_megatron_layer()
    for name in IMPORTED:  # once for all children
        importlib.import_module(name)


def call(connection, function, arguments: dict, rank: int, processes: int, store: str) -> None:
    """Run a test; send None, or the traceback of its failure."""
    try:
        if processes > 1:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=processes
            )
            torch.distributed.barrier()  # nobody leaves while another still connects
        function(**arguments)
        connection.send(None)
    except BaseException:  # pytest's own failures are no Exceptions
        connection.send(traceback.format_exc())
    finally:
        connection.close()
        for process in multiprocessing.active_children():
            process.kill()  # of a checkpoint, Megatron's queue of results has one of its own
        os._exit(0)  # Megatron leaves groups and threads behind that would wait for each other
