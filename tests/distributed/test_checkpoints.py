"""Recipes from checkpoints that two processes wrote: wrapped by DDP, gathered or in shards."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from sharded_runs import Net, Values, fresh, full, loader, trainer_of
from torch import nn
from two_ranks import on_two_ranks

from lightning_init import InitRecipe

pytestmark = [
    pytest.mark.slow,  # one process per rank and test
    pytest.mark.filterwarnings("ignore:.*use of fork"),
    pytest.mark.timeout(120),
]


def variances(recipe: InitRecipe) -> dict[str, float]:
    return {layer.name: layer.sigma0_squared for layer in recipe.layers}


def of_the_whole(values: Values) -> dict[str, float]:
    """V of the weights that the ranks ended at, gathered."""
    net = Net()
    net.load_state_dict(values, strict=False)
    return variances(InitRecipe.from_module(net))


def trained_in_shards(path: str, sharded: bool) -> Values:
    strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=sharded)
    net, trainer = fresh("adam"), trainer_of(strategy=strategy, max_steps=3)
    trainer.fit(net, loader())
    trainer.save_checkpoint(path)
    return full(net)


def test_a_gathered_checkpoint_is_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.ckpt"
    values, _ = on_two_ranks(trained_in_shards, str(path), False)
    found = variances(InitRecipe.from_checkpoint(path, Net()))
    assert found == pytest.approx(of_the_whole(values), rel=1e-12)


def test_shards_are_refused_and_the_way_that_is_told_leads_there(tmp_path: Path) -> None:
    path = tmp_path / "shards.ckpt"
    values, _ = on_two_ranks(trained_in_shards, str(path), True)
    assert path.is_dir()
    with pytest.raises(ValueError, match=r"^[^\n]*is a sharded checkpoint") as caught:
        InitRecipe.from_checkpoint(path, Net())
    (command,) = re.findall("`(.*?)`", str(caught.value))
    python, *arguments = shlex.split(command)
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=100)
    found = variances(InitRecipe.from_checkpoint(arguments[-1], Net()))
    assert found == pytest.approx(of_the_whole(values), rel=1e-12)


def wrapped_by_ddp(path: str) -> tuple[Any, Any]:
    rank = int(os.environ["LOCAL_RANK"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    wrapped = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.Adam(wrapped.parameters())
    wrapped(torch.arange(20)).square().mean().backward()
    optimizer.step()
    if rank == 0:
        torch.save(wrapped.state_dict(), path)
    found = variances(InitRecipe.from_module(wrapped)), variances(InitRecipe.from_module(net))
    torch.distributed.destroy_process_group()
    return found


def test_a_wrapped_module_and_its_checkpoint_are_read_as_the_bare_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "wrapped.pt"
    (wrapped, bare), _ = on_two_ranks(wrapped_by_ddp, str(path))
    assert wrapped == bare
    names = list(torch.load(path, weights_only=True))
    assert all(name.startswith("module.") for name in names)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    assert variances(InitRecipe.from_checkpoint(path, net)) == pytest.approx(bare, rel=1e-12)
