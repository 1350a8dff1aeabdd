from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lightning_init.monitoring.weight_moments as implementation
from lightning_init.monitoring.weight_moments import (
    CHUNK,
    fold_moments,
    sample_moments,
)

LARGE = 5 * CHUNK + 123


def reference(tensor: Tensor) -> Tensor:
    """Two passes in float64 by NumPy, whose sums are pairwise."""
    values = tensor.detach().double().flatten().numpy()
    mean = values.mean()
    return torch.tensor([values.size, mean, np.square(values - mean).sum()], dtype=torch.float64)


def tensor_moments(tensor: Tensor) -> Tensor:
    return torch.tensor(sample_moments([tensor])[0], dtype=torch.float64)


def normal(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


CASES = {
    "one": lambda: torch.tensor([2.5]),
    "small": lambda: normal(300).reshape(20, 15),
    "one chunk": lambda: normal(CHUNK),
    "one over": lambda: normal(CHUNK + 1),
    "large": lambda: 0.02 * normal(LARGE),
    "uniform": lambda: torch.rand(LARGE, generator=torch.Generator().manual_seed(1)) - 0.5,
    "mean 1000, sd 0.01": lambda: 1000 + 0.01 * normal(LARGE),
    "mean 1, sd 1": lambda: 1 + normal(LARGE),
    "mean 3, sd 1": lambda: 3 + normal(LARGE),
    "chunks of other means": lambda: torch.cat([normal(CHUNK), 50 + normal(CHUNK)]),
    "first chunk unlike the rest": lambda: torch.cat([normal(CHUNK), 1e3 * normal(2 * CHUNK)]),
    "one magnitude": lambda: 0.1 * normal(LARGE).sign(),
    "three values": lambda: 0.07 * normal(LARGE).round().clamp(-1, 1),
    "heavy tails": lambda: normal(LARGE) ** 5,
    "sparse": lambda: normal(LARGE) * (normal(LARGE, 1) > 2),
    "tiny": lambda: 1e-22 * normal(LARGE),
    "denormal": lambda: 1e-39 * normal(LARGE),
    "huge": lambda: 1e25 * normal(LARGE),
    "bfloat16": lambda: (0.02 * normal(LARGE)).bfloat16(),
    "float16": lambda: (0.02 * normal(LARGE)).half(),
    "float64": lambda: 1e6 + 1e-3 * normal(LARGE).double(),
    "transposed": lambda: normal(600 * 700).reshape(600, 700).T,
    "rows": lambda: normal(900 * 300).reshape(900, 300)[300:600],
    "columns": lambda: normal(900 * 300).reshape(900, 300)[:, 3:200],
    "channels last": lambda: (
        normal(2**17).reshape(64, 128, 4, 4).to(memory_format=torch.channels_last)
    ),
    "0.02, every second column of a transposed matrix": lambda: (
        0.02 * normal(300 * 300).reshape(300, 300).T[:, ::2]
    ),
    "zeros": lambda: torch.zeros(3, 3),
    "mean 10, small": lambda: 10 + 0.02 * normal(64 * 64),
    "one huge value": lambda: torch.cat([normal(64 * 64), torch.tensor([1e30])]),
    "expanded": lambda: normal(300).expand(400, 300),
}


@pytest.mark.parametrize("case", CASES)
def test_moments_match_double_precision(case: str) -> None:
    tensor = CASES[case]()
    before = tensor.clone()
    moments, expected = tensor_moments(tensor), reference(tensor)
    assert (moments.shape, moments.dtype) == ((3,), torch.float64)
    assert moments[0] == expected[0]
    deviation = (expected[2] / expected[0]).sqrt()
    assert abs(moments[1] - expected[1]) <= 1e-7 * (deviation + abs(expected[1]))
    assert abs(moments[2] - expected[2]) <= 1e-6 * expected[2]
    assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    ("case", "passes"),
    [
        ("large", 1),
        ("uniform", 1),
        ("mean 1, sd 1", 1),
        ("one magnitude", 1),
        ("three values", 1),
        ("bfloat16", 1),
        ("mean 3, sd 1", 2),
        ("tiny", 2),
        ("denormal", 2),
        ("huge", 2),
    ],
)
def test_a_second_pass_is_taken_where_sums_of_squares_are_not_enough(
    case: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    exact = implementation._exact_moments
    monkeypatch.setattr(
        implementation, "_exact_moments", lambda tensor: calls.append(1) or exact(tensor)
    )
    tensor_moments(CASES[case]())
    assert 1 + len(calls) == passes


# No value of a float32 chunk takes part in more additions than this, by the levels of `torch.sum`.
CHAIN = 80
UNIT = 2.0**-24


@pytest.mark.parametrize("value", [0.05, 0.0777, 0.1, 1 / 3])
@pytest.mark.parametrize("size", [65_536, 262_144, 1 << 20])
def test_values_on_a_coarse_grid_stay_within_the_bound_of_summation(
    value: float, size: int
) -> None:
    # Equal values bias every addition alike: the worst that rounding can do.
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(0))
    tensor = value * (2 * signs.float() - 1)
    expected = reference(tensor)[2]
    assert abs(tensor_moments(tensor)[2] - expected) <= (CHAIN + 1) * UNIT * expected


def test_a_sample_is_that_of_its_tensors_one_by_one() -> None:
    tensors = [make() for make in CASES.values()]
    together = torch.tensor(sample_moments(tensors), dtype=torch.float64)
    torch.testing.assert_close(together, torch.stack([tensor_moments(t) for t in tensors]))
    assert sample_moments([]) == []


def test_constant_and_empty_tensors() -> None:
    assert tensor_moments(torch.full((LARGE,), 3.0)).tolist() == [LARGE, 3.0, 0.0]
    assert tensor_moments(torch.empty(0, 4)).tolist() == [0.0, 0.0, 0.0]
    assert tensor_moments(torch.tensor(4.0)).tolist() == [1.0, 4.0, 0.0]


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_weight_shows(size: int, value: float) -> None:
    tensor = normal(size)
    tensor[-1] = value
    assert not torch.isfinite(tensor_moments(tensor)[2])


def test_no_graph_is_kept() -> None:
    assert not tensor_moments(nn.Parameter(normal(LARGE))).requires_grad
    assert not tensor_moments(nn.Parameter(normal(10))).requires_grad


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=30), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e6]),
)
@settings(max_examples=100, deadline=None)
def test_merging_parts_gives_the_whole(parts: list[list[float]], offset: float) -> None:
    tensors = [torch.tensor(part, dtype=torch.float64) + offset for part in parts]
    rows = [tensor_moments(tensor) for tensor in tensors]
    whole = tensor_moments(torch.cat(tensors))
    merged = torch.zeros(3, dtype=torch.float64)
    for row in rows:
        merged = fold_moments(torch.stack([merged, row]))
    # Rounding of values near the offset limits what M2 can be known to.
    atol = 1e-9 + 1e-9 * offset
    for result in (merged, fold_moments(torch.stack(rows))):
        torch.testing.assert_close(result, whole, rtol=1e-10, atol=atol)


def test_folding_is_commutative_and_associative_and_broadcasts_over_layers() -> None:
    def merged(first: Tensor, second: Tensor) -> Tensor:
        return fold_moments(torch.stack([first, second]))

    a, b, c = (
        torch.stack([tensor_moments(normal(9, seed)), tensor_moments(5 + normal(4, seed))])
        for seed in range(3)
    )
    torch.testing.assert_close(merged(a, b), merged(b, a))
    torch.testing.assert_close(merged(merged(a, b), c), merged(a, merged(b, c)))
    torch.testing.assert_close(merged(a, b)[1], merged(a[1], b[1]))


def _two_processes(rank: int, folder: str) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    whole = normal(5 * 7).reshape(5, 7)
    results = {
        "sharded": tensor_moments(distribute_tensor(whole, mesh, [Shard(0)])),
        "uneven": tensor_moments(distribute_tensor(whole[:1], mesh, [Shard(0)])),
        "replicated": tensor_moments(distribute_tensor(whole, mesh, [Replicate()])),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        _two_processes, (str(tmp_path),), nprocs=2, start_method="fork"
    )
    whole = normal(5 * 7).reshape(5, 7)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(results["sharded"], reference(whole))
        torch.testing.assert_close(results["uneven"], reference(whole[:1]))
        torch.testing.assert_close(results["replicated"], reference(whole))
