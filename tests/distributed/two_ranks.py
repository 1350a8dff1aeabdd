"""Runs a function on two processes of this machine, under a watchdog."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

SECONDS = 100.0


def on_two_ranks(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function`` returned on either rank, started as a cluster's launcher would start them.

    Raises:
        AssertionError: If it raised, died or hung on a rank; with the traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = []
    for rank in (0, 1):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(sender, rank, port, function, arguments))
        process.start()
        sender.close()
        ranks.append((process, receiver))
    deadline = time.monotonic() + SECONDS
    try:
        return [_answer(rank, *pair, deadline) for rank, pair in enumerate(ranks)]
    finally:
        for process, _ in ranks:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def _answer(rank: int, process: Any, receiver: Connection, deadline: float) -> Any:
    assert receiver.poll(max(0.0, deadline - time.monotonic())), f"rank {rank} hangs"
    try:
        failed, result = pickle.loads(receiver.recv_bytes())
    except EOFError:
        process.join()
        raise AssertionError(f"rank {rank} died with exit code {process.exitcode}") from None
    assert not failed, f"rank {rank}: {result}"
    return result


def _rank(
    sender: Connection,
    rank: int,
    port: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    faulthandler.dump_traceback_later(SECONDS - 5, exit=True)
    torch.set_num_threads(1)
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        answer: tuple[bool, Any] = (False, function(*arguments))
    except BaseException:
        answer = (True, traceback.format_exc())
    # Plain pickle: a Connection would pass tensors by a socket of the process that ends here.
    sender.send_bytes(pickle.dumps(answer))
    sender.close()
    os._exit(0)  # a peer that failed must not keep the process group's teardown waiting
