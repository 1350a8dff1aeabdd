"""Operating characteristics of the stationarity detector, as markdown tables.

    python tests/benchmarks/detector_characteristics.py [--replicates 100] [--seed 0]

A few minutes on one core. Columns: share of fires, share of *false* fires (true index above 1.5
tolerances, or any fire on a random walk), median fire time over length, median |bias| of V.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "stationarity"))

from detector_scenarios import (
    SCENARIOS,
    Detector,
    Noise,
    Scenario,
    Score,
    log_means,
    plain_drift_index,
    sasa_like,
    score,
    slope_test,
    steady_end,
    variances,
)

from lightning_init.stationarity import (
    Decision,
    DetectorSettings,
    Verdict,
    decide,
    start,
    update,
)

DETECTORS: dict[str, Detector] = {
    "drift index (before)": plain_drift_index,
    "steady end (default)": steady_end,
    "SASA-like": sasa_like,
    "slope t-test": slope_test,
}


@dataclass(frozen=True)
class Setting:
    length: int
    noise: Noise
    horizon_over_length: float = 1.0

    @property
    def title(self) -> str:
        return (
            f"T={self.length}, H={self.horizon_over_length:g} T, noise sd {self.noise.std:g}, "
            f"autocorrelation time {self.noise.autocorrelation_time:g}"
        )


SETTINGS = (
    Setting(400, Noise(0.005, 5)),
    Setting(400, Noise(0.001, 5)),
    Setting(400, Noise(0.02, 5)),
    Setting(100, Noise(0.005, 5)),
    Setting(2000, Noise(0.005, 10)),
)
# A horizon k times the length is the same as log V times k at a horizon of one length, so one
# setting shows the pattern; the noise is what decides.
LONG_HORIZON = Setting(400, Noise(0.0005, 5), 10)
STEADY_NOISE = (Noise(0.0005, 5), Noise(0.005, 5), Noise(0.005, 20))
STEADY_HORIZONS = (1, 10, 100)
PROJECTION_TIMES = (0.2, 0.4, 0.7)


def print_operating_characteristics(
    setting: Setting, detectors: dict[str, Detector], replicates: int, seed: int
) -> None:
    print(f"\n### {setting.title}\n")
    print_row(["fires false time bias", *detectors])
    print_row(["---"] * (1 + len(detectors)))
    for number, scenario in enumerate(SCENARIOS.values()):
        series = variances(
            scenario, replicates, setting.length, setting.noise, seed + 1000 * number
        )
        horizon = setting.length * setting.horizon_over_length
        scores = [score(detector, scenario, series, horizon) for detector in detectors.values()]
        print_row([scenario.name, *map(format_score, scores)])


def print_verdicts_on_steady_series(replicates: int, seed: int) -> None:
    """Stationary, inconclusive and (wrongly) drifting at the end of a probe of 400 samples."""
    print("\n### Steady series, T=400: stationary / inconclusive / drifting by horizon\n")
    print_row(["noise sd, autocorrelation time", *(f"H={far} T" for far in STEADY_HORIZONS)])
    print_row(["---"] * (1 + len(STEADY_HORIZONS)))
    for noise in STEADY_NOISE:
        series = variances(SCENARIOS["stationary"], replicates, 400, noise, seed)
        cells = []
        for far in STEADY_HORIZONS:
            counts = Counter(decide_prefix(row, 400 * far, 400).verdict for row in series)
            shares = [
                counts[verdict] / replicates
                for verdict in (Verdict.STATIONARY, Verdict.INCONCLUSIVE, Verdict.DRIFTING)
            ]
            cells.append(" / ".join(f"{share:.2f}" for share in shares))
        print_row([f"{noise.std:g}, {noise.autocorrelation_time:g}", *cells])


def print_projection_coverage(setting: Setting, replicates: int, seed: int) -> None:
    print(f"\n### Projection to the end: coverage of 90% intervals (half width), {setting.title}\n")
    print_row(["projected at", *(f"{time:g} T" for time in PROJECTION_TIMES)])
    print_row(["---"] * (1 + len(PROJECTION_TIMES)))
    for number, scenario in enumerate(SCENARIOS.values()):
        cells = coverages(scenario, setting, replicates, seed + 1000 * number)
        print_row([scenario.name, *cells])


def coverages(scenario: Scenario, setting: Setting, replicates: int, seed: int) -> list[str]:
    series = variances(scenario, replicates, setting.length, setting.noise, seed)
    # The walk itself is drawn first, so the same seed gives the noise-free series again.
    ends = log_means(scenario, replicates, setting.length, np.random.default_rng(seed))[:, -1]
    cells = []
    for time in PROJECTION_TIMES:
        samples = int(time * setting.length)
        decisions = [decide_prefix(row[:samples], setting.length, setting.length) for row in series]
        lower = np.log([decision.projected_lower for decision in decisions])
        upper = np.log([decision.projected_upper for decision in decisions])
        covered = np.mean((lower <= ends) & (ends <= upper))
        cells.append(f"{covered:.2f} ({np.median(upper - lower) / 2:.3f})")
    return cells


def decide_prefix(values: Sequence[float], horizon: int, budget: int) -> Decision:
    state = start(DetectorSettings(), horizon, budget)
    for value in values:
        state = update(state, float(value))
    return decide(state)


def format_score(result: Score) -> str:
    cells = [f"{result.fires:.2f}", f"{result.false_fires:.2f}"]
    cells.append("-" if np.isnan(result.time) else f"{result.time:.2f}")
    cells.append("-" if np.isnan(result.bias) else f"{result.bias:.4f}")
    return " ".join(cells)


def print_row(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for setting in SETTINGS:
        print_operating_characteristics(setting, DETECTORS, arguments.replicates, arguments.seed)
    ours = {name: DETECTORS[name] for name in list(DETECTORS)[:2]}
    print_operating_characteristics(LONG_HORIZON, ours, arguments.replicates, arguments.seed)
    print_verdicts_on_steady_series(arguments.replicates, arguments.seed)
    for setting in SETTINGS[:2]:
        print_projection_coverage(setting, arguments.replicates, arguments.seed)


if __name__ == "__main__":
    main()
