"""Make gated.json: scales of gated products phi(a) b to 30 digits, with mpmath at 40 digits.

    python tests/oracles/make_gated.py        # about two minutes of CPU time with gmpy2

None of the package's code or formulas is used. With D(t) = E[1 - (1 + 2 t phi(a)^2)^(-1/2)], a ~
N(0, 1), one has E exp(-t (phi(a) b)^2) = 1 - D(t), and for 0 < r < 1

    E Q^r = r / Gamma(1 - r) * integral of (1 - (1 - D(t))^m) t^(-r - 1) dt over t > 0.

Both integrals are trapezoid rules, in log t and in log |a| (in a for the sigmoid, which has no
zero). `--check` halves both steps and counts the stored values that differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from mpmath import mp, mpf

mp.dps = 40
WIDTHS = (2, 8, 64)
ORDERS = ("0.5", "1", "1.5")
LEFT, RIGHT, LOWEST = -72, 150, -75  # of log t, and of log |a|
NEGLIGIBLE = mpf(10) ** -42


def sigmoid(a: mpf) -> mpf:
    return 1 / (1 + mp.exp(-a))


FUNCTIONS: dict[str, Callable[[mpf], mpf]] = {
    "glu": sigmoid,
    "swiglu": lambda a: a * sigmoid(a),
    "geglu": lambda a: a * mp.erfc(-a / mp.sqrt(2)) / 2,
    "geglu_tanh": lambda a: (
        a / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (a + mpf("0.044715") * a**3)))
    ),
    "reglu": lambda a: max(a, mpf(0)),
    "bilinear": lambda a: a,
}


def nodes(name: str, step: mpf) -> list[tuple[mpf, mpf]]:
    """Pairs (2 phi(a)^2, probability)."""
    if name == "glu":
        grid = [step * k for k in range(-int(14 / step), int(14 / step) + 1)]
        density = [(a, step * mp.npdf(a)) for a in grid]
    else:
        sizes = [mp.exp(LOWEST + step * k) for k in range(int((mp.log(14) - LOWEST) / step))]
        density = [(sign * a, step * a * mp.npdf(a)) for a in sizes for sign in (-1, 1)]
    function = FUNCTIONS[name]
    return [(2 * function(a) ** 2, weight) for a, weight in density]


def deficit(t: mpf, pairs: list[tuple[mpf, mpf]]) -> mpf:
    total = mpf(0)
    for square, weight in pairs:
        x = t * square
        if min(x, 1) * weight > NEGLIGIBLE * min(t, 1):
            root = mp.sqrt(1 + x)
            total += weight * (x / (root * (1 + root)))
    return total


def sigmas(name: str, step: mpf, inner_step: mpf) -> list[dict[str, object]]:
    pairs = nodes(name, inner_step)
    mean = sum(square * weight for square, weight in pairs) / 2  # E X
    grid = [LEFT + step * k for k in range(int((RIGHT - LEFT) / step))]
    deficits = [deficit(mp.exp(u), pairs) for u in grid]
    entries: list[dict[str, object]] = [
        {"activation": name, "fan_in": 1, "s": s, "sigma": text(single(pairs, mpf(s)))}
        for s in ORDERS
    ]
    for m in WIDTHS:
        of_sum = [-mp.expm1(m * mp.log1p(-one)) for one in deficits]
        for s in ORDERS:
            r = mpf(s) / 2
            terms = [value * mp.exp(-r * u) for value, u in zip(of_sum, grid, strict=True)]
            # Beyond both ends the integrand is a geometric series: m t E X, and its last value.
            left = m * mean * mp.exp((1 - r) * (LEFT - step)) / (1 - mp.exp(-(1 - r) * step))
            right = of_sum[-1] * mp.exp(-r * (grid[-1] + step)) / (1 - mp.exp(-r * step))
            moment = r / mp.gamma(1 - r) * step * (left + mp.fsum(terms) + right)
            sigma = moment ** (-1 / mpf(s))
            entries.append({"activation": name, "fan_in": m, "s": s, "sigma": text(sigma)})
    return entries


def single(pairs: list[tuple[mpf, mpf]], s: mpf) -> mpf:
    """One input: E|phi(a)|^s E|b|^s."""
    of_gate = mp.fsum(weight * mp.sqrt(square / 2) ** s for square, weight in pairs)
    absolute = 2 ** (s / 2) * mp.gamma((1 + s) / 2) / mp.sqrt(mp.pi)
    return (of_gate * absolute) ** (-1 / s)


def text(value: mpf) -> str:
    return str(mp.nstr(value, 30, strip_zeros=False))


def main() -> None:
    fine = "--check" in sys.argv
    step, inner_step = (mpf("0.06"), mpf("0.03")) if fine else (mpf("0.12"), mpf("0.06"))
    entries = [entry for name in FUNCTIONS for entry in sigmas(name, step, inner_step)]
    result = {
        "description": "std of N(0, sigma^2) weights behind phi(a) b with sigma^s E Q^(s/2) = 1",
        "made_by": "tests/oracles/make_gated.py, mpmath 1.3.0 at 40 digits",
        "digits": 30,
        "entries": entries,
    }
    path = Path(__file__).with_name("gated.json")
    if not fine:
        path.write_text(json.dumps(result, indent=1) + "\n")
    stored = json.loads(path.read_text())["entries"]
    pairs = zip(entries, stored, strict=True)
    sys.stdout.write(f"{sum(a != b for a, b in pairs)} of {len(entries)} values differ\n")


if __name__ == "__main__":
    main()
