"""Runs a piece of work in workers of one process group, as Ray Train would start them."""

import os
import queue as queues
import sys
import time
import traceback
from pathlib import Path

import torch


def in_two_workers(work, folder, *arguments, timeout=480):
    """What `work(rank, folder, *arguments)` gave in each of two workers, in their order."""
    return in_workers(2, work, folder, *arguments, timeout=timeout)


def in_workers(number, work, folder, *arguments, timeout=480, device="cpu"):
    """What `work(rank, folder, *arguments)` gave in each of some workers, in their order.

    On `cuda` each has the GPU of its rank.
    """
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(
            target=_run, args=(rank, number, work, str(folder), arguments, queue, device)
        )
        for rank in range(number)
    ]
    for worker in workers:
        worker.start()
    results = {}
    try:
        # The first may wait for DeepSpeed's communication op to be compiled.
        while len(results) < len(workers):
            rank, error, result = _next_result(queue, workers, timeout)
            assert error is None, f"worker {rank} failed:\n{error}"
            results[rank] = result
    finally:
        for worker in workers:
            worker.join(30 if len(results) == len(workers) else 1)
            worker.kill()
    return [results[rank] for rank in range(len(workers))]


def _next_result(queue, workers, timeout):
    """What the next worker gave; one that died without a word is not waited for."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        died = [worker.exitcode for worker in workers if worker.exitcode]
        try:
            return queue.get(timeout=1)
        except queues.Empty:
            assert not died, f"a worker died, exit code {died[0]}; its output says why"
    raise TimeoutError(f"no worker gave anything in {timeout} seconds")


def _run(rank, number, work, folder, arguments, queue, device):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(number), LOCAL_RANK=str(rank), DS_ACCELERATOR=device
    )
    # DeepSpeed looks for ninja on the path; ours is beside the interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=number,
    )
    try:
        queue.put((rank, None, work(rank, Path(folder), *arguments)))
        torch.distributed.barrier()
    except Exception:  # noqa: BLE001 (it is raised again in the test)
        queue.put((rank, traceback.format_exc(), None))
    torch.distributed.destroy_process_group()
