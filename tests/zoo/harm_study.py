"""Two hundred steps from the author's first weights and from ours, paired seed by seed.

`python tests/zoo/harm_study.py DIRECTORY [MODEL ...]` trains and writes one JSON file per model;
`python tests/zoo/harm_study.py DIRECTORY --table` prints the table of docs/models.md.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harm_networks as networks
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_init import fractional_moment_init_

STEPS, SEEDS, LAST = 200, 10, 10
VOCABULARY, LENGTH = 64, 16
T_95 = 2.262  # 97.5 % point of Student's t with 9 degrees of freedom
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One model with its data and the optimizer that its authors would use.

    Args:
        build: Makes the model, initialized as its authors do.
        batch: One batch of the data.
        loss: Of the model on a batch.
        example: What the model is called with, of a batch.
        lr: Learning rate of Adam, or of SGD.
        sgd: Whether it is SGD.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    example: Callable[[Batch], Any] = lambda batch: batch[0]
    lr: float = 1e-3
    sgd: bool = False


def regression(g: torch.Generator) -> Batch:
    x = torch.randn(32, 16, generator=g)
    return x, torch.stack([x[:, :4].sin().sum(1), x[:, 4] * x[:, 5]], 1)


def classes(g: torch.Generator) -> Batch:
    x = torch.randn(32, 16, generator=g)
    return x, 2 * (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2].abs() > 0.7).long()


def image(g: torch.Generator) -> Batch:
    x = 2 * torch.rand(128, 2, generator=g) - 1
    wave = torch.sin(9 * x[:, :1]) * torch.cos(7 * x[:, 1:]) + 0.5 * torch.sin(20 * x[:, :1])
    return x, wave


def pictures(g: torch.Generator) -> Batch:
    labels = torch.randint(4, (16,), generator=g)
    x = torch.randn(16, 3, 8, 8, generator=g)
    x[torch.arange(16), labels % 3, :4] += 0.7 * (1 + labels // 3)[:, None, None]
    return x, labels


def rare_objects(g: torch.Generator) -> Batch:
    target = (torch.rand(8, 4, 8, 8, generator=g) < 0.01).float()
    x = torch.randn(8, 3, 8, 8, generator=g)
    return x + 3 * target[:, :3] + target[:, 3:], target


def actions(g: torch.Generator) -> Batch:
    state = torch.randn(32, 8, generator=g)
    return state, torch.tanh(torch.stack([state[:, 0] - state[:, 1], state[:, 2] * 2], 1))


def ring(size: int) -> Callable[[torch.Generator], Batch]:
    def batch(g: torch.Generator) -> Batch:
        x = torch.randn(64, size, generator=g)
        x[:, 1] = 0.5 * x[:, 0] ** 2 - 1 + 0.3 * x[:, 1]
        x[:, -1] = torch.sin(2 * x[:, 1]) + 0.2 * x[:, -1]
        return (x,)

    return batch


def series(g: torch.Generator) -> Batch:
    time, phase = torch.arange(25.0), 6 * torch.rand(32, 1, generator=g)
    slope, noise = torch.randn(32, 1, generator=g), torch.randn(32, 25, generator=g)
    x = 2 * torch.sin(0.6 * time + phase) + 0.1 * slope * time + 0.1 * noise
    return x[:, :20], x[:, 20:]


FOLLOWERS = torch.randint(VOCABULARY, (VOCABULARY, 4), generator=torch.Generator().manual_seed(1))


def text(g: torch.Generator) -> Batch:
    """A language in which each of 64 words has four followers."""
    words = [torch.randint(VOCABULARY, (8,), generator=g)]
    for _ in range(LENGTH):
        words.append(FOLLOWERS[words[-1], torch.randint(4, (8,), generator=g)])
    tokens = torch.stack(words, 1)
    return tokens[:, :-1], tokens[:, 1:].contiguous()


def square(model: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    out = model(batch[0])
    logits: Tensor = getattr(out, "logits", out)
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))


def likelihood(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch[0]).mean()


def from_transformers(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **options)
        kind = "ForConditionalGeneration" if name == "T5" else "ForCausalLM"
        return getattr(transformers, f"{name}{kind}")(config)

    return build


def tokens_only(batch: Batch) -> Any:
    return {"input_ids": batch[0]}


def translation(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch[0], labels=batch[1]).loss


def translated(batch: Batch) -> Any:
    return {"input_ids": batch[0], "labels": batch[1]}


def demo_transformer() -> nn.Module:
    from lightning.pytorch.demos import Transformer

    return Transformer(vocab_size=VOCABULARY, ninp=32, nhead=2, nhid=32, nlayers=2)


def demo_loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.nll_loss(model(batch[0], batch[1]), batch[1].reshape(-1))


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
CASES: dict[str, Case] = {
    "MLP": Case(lambda: networks.mlp(16, 64, 64, 2), regression, square),
    "SIREN": Case(networks.siren, image, square, lr=1e-4),
    "highway network": Case(networks.Highway, classes, cross_entropy),
    "focal-loss head": Case(
        networks.FocalDetector,
        rare_objects,
        lambda model, batch: networks.focal_loss(model(batch[0]), batch[1]),
    ),
    "Fixup": Case(networks.Fixup, pictures, cross_entropy, lr=0.05, sgd=True),
    "DDPG actor": Case(networks.ddpg_actor, actions, square),
    "spline flow": Case(networks.SplineFlow, ring(4), likelihood),
    "MAF": Case(networks.MaskedFlow, ring(6), likelihood),
    "gMLP": Case(networks.GatedMLP, text, cross_entropy),
    "LSTM language model": Case(networks.RecurrentLanguageModel, text, cross_entropy),
    "N-BEATS": Case(networks.Forecaster, series, square),
    "demo Transformer": Case(
        demo_transformer, text, demo_loss, lambda batch: batch, lr=0.1, sgd=True
    ),
    "T5": Case(
        from_transformers(
            "T5", d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
        ),
        text,
        translation,
        translated,
    ),
    "GPT-NeoX": Case(
        from_transformers("GPTNeoX", **SIZES, intermediate_size=64),
        text,
        cross_entropy,
        tokens_only,
    ),
    "Llama": Case(
        from_transformers("Llama", **SIZES, intermediate_size=64), text, cross_entropy, tokens_only
    ),
    "Mamba": Case(
        from_transformers("Mamba", hidden_size=32, num_hidden_layers=2, state_size=8),
        text,
        cross_entropy,
        tokens_only,
    ),
}


def keep(model: nn.Module, example: Any, seed: int) -> None:
    """The author's own first weights."""


def ours(**options: Any) -> Callable[[nn.Module, Any, int], None]:
    def initialize(model: nn.Module, example: Any, seed: int) -> None:
        fractional_moment_init_(model, example_input=example, seed=seed, **options)

    return initialize


def anyinit(model: nn.Module, example: Any, seed: int) -> None:
    import anyinit as package

    torch.manual_seed(seed)
    package.initialize(model, "analytic", example)


INITS: dict[str, Callable[[nn.Module, Any, int], None]] = {
    "author": keep,
    "order 2": ours(order=2.0),
    "order 1": ours(order=1.0),
    "AnyInit": anyinit,
}


def first_model(case: Case, init: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = case.build().train()
    example = case.example(case.batch(torch.Generator().manual_seed(seed)))
    INITS[init](model, example, seed)
    return model


def final_loss(case: Case, init: str, seed: int, steps: int = STEPS) -> float:
    """Mean loss of the last ten steps; the same data and dropout for every initialization."""
    model = first_model(case, init, seed)
    data = torch.Generator().manual_seed(1000 + seed)
    torch.manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(parameters, case.lr) if case.sgd else torch.optim.Adam(parameters, case.lr)
    )
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = case.loss(model, case.batch(data))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return statistics.fmean(losses[-LAST:])


def leaves_all(case: Case, init: str, seed: int) -> bool:
    """Whether the first weights are the author's bit for bit: the run would be the same."""
    ours_, theirs = (first_model(case, name, seed).state_dict() for name in (init, "author"))
    return all(torch.equal(ours_[name], value) for name, value in theirs.items())


def losses_of(case: Case, inits: list[str], seeds: int = SEEDS) -> dict[str, list[float] | str]:
    found: dict[str, list[float] | str] = {}
    for init in inits:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[init] = [
                    found["author"][seed]
                    if init != "author" and leaves_all(case, init, seed)
                    else final_loss(case, init, seed)
                    for seed in range(seeds)
                ]
        except Exception as error:  # a package that does not take this model
            if init != "AnyInit":
                raise
            found[init] = f"{type(error).__name__}: {str(error)[:120]}"
    return found


def difference(ours_: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of the paired differences, and half of its 95 % interval."""
    pairs = [a - b for a, b in zip(ours_, theirs, strict=True)]
    if not all(map(math.isfinite, pairs)):
        return math.inf, 0.0
    mean = statistics.fmean(pairs)
    return mean, T_95 * statistics.stdev(pairs) / math.sqrt(len(pairs))


def table(directory: Path) -> Iterator[str]:
    """One row per model; a verdict in brackets does not stand among that many rows (Holm)."""
    yield "| model | author | order 2 | order 1 | AnyInit |"
    yield "|---|---|---|---|---|"
    paths = [path for name in CASES if (path := directory / f"{name}.json").exists()]
    found = {path.stem: json.loads(path.read_text()) for path in paths}
    stands = {init: _standing(init, found) for init in list(INITS)[1:]}
    for name, one in found.items():
        cells = [
            _cell(one[init], one["author"], stands=name in stands[init]) for init in list(INITS)[1:]
        ]
        yield f"| {name} | {statistics.fmean(one['author']):.3f} | {' | '.join(cells)} |"


def _standing(init: str, found: dict[str, Any], level: float = 0.05) -> set[str]:
    """The models whose difference to the author's is shown at this level over all models."""
    chances = sorted((_chance(one[init], one["author"]), name) for name, one in found.items())
    shown = set()
    for place, (chance, name) in enumerate(chances):
        if chance * (len(chances) - place) > level:
            break
        shown.add(name)
    return shown


def _chance(losses: list[float] | str, author: list[float]) -> float:
    """Of a paired difference at least as large if there is none (Student's t)."""
    from scipy.stats import ttest_rel

    if isinstance(losses, str) or losses == author:
        return 1.0
    return float(ttest_rel(losses, author).pvalue)


def _cell(losses: list[float] | str, author: list[float], *, stands: bool = True) -> str:
    if isinstance(losses, str):
        return "does not run"
    mean, half = difference(losses, author)
    if math.isinf(mean):
        return "**diverges**"
    verdict = "worse" if mean > half else "better" if mean < -half else ""
    shown = f" {verdict}" if stands else f" ({verdict})"
    return f"{mean:+.3f} ± {half:.3f}{shown if verdict else ''}"


def main(directory: Path, *names: str) -> None:
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    if names == ("--table",):
        print("\n".join(table(directory)))
        return
    for name in names or CASES:
        found = losses_of(CASES[name], list(INITS))
        (directory / f"{name}.json").write_text(json.dumps(found))
        cells = [_cell(found[init], found["author"]) for init in list(INITS)[1:]]  # type: ignore
        print(name, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
