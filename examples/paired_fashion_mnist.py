"""Is the redraw worth it? Paired runs of He-normal and sigma0^2 = V(W) on Fashion-MNIST.

    python examples/paired_fashion_mnist.py --seeds 10 --weight-decays 0 2e-3

For each seed both runs have the same data order and the same standard normal draws, scaled once by
He's variance and once by V(W): they differ in the scales alone. Prints the mean paired difference
(optimal minus He) with its standard error; a difference within two standard errors says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import fashion_mnist

QUANTITIES = ("train_loss", "test_loss", "test_accuracy")


def paired_difference(optimal: list[float], he: list[float]) -> str:
    """Mean and standard error of the paired differences."""
    differences = [a - b for a, b in zip(optimal, he, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
    return f"{statistics.mean(differences):+.4f} ± {spread / len(differences) ** 0.5:.4f}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--weight-decays", type=float, nargs="+", default=[0.0, 2e-3])
    parser.add_argument("--out", type=Path, help="keep every run in this JSON-lines file")
    ours, others = parser.parse_known_args(argv)
    options = fashion_mnist.parse(others)
    train, test = fashion_mnist.load(options.data_dir)

    for options.weight_decay in ours.weight_decays:
        results: dict[str, list[dict[str, float]]] = {"he": [], "optimal": []}
        for options.seed in range(ours.seeds):
            for options.init, runs in results.items():
                runs.append(fashion_mnist.train_once(options, train, test))
                if ours.out:
                    row = {**vars(options), **runs[-1], "data_dir": str(options.data_dir)}
                    with ours.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
        print(f"\nweight decay {options.weight_decay:g}, {ours.seeds} seeds, optimal minus He:")
        for quantity in QUANTITIES:
            he, optimal = ([run[quantity] for run in results[i]] for i in ("he", "optimal"))
            print(f"  {quantity}: {paired_difference(optimal, he)}  (He {statistics.mean(he):.4f})")


if __name__ == "__main__":
    main()
