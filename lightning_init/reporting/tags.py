"""The names under which results are logged."""

from __future__ import annotations

import re

OPTIMAL_VARIANCE = "OptimalVarianceInit"
FRACTIONAL_MOMENT = "FractionalMomentInit"

# Every tag that is ever written, with its meaning; the callbacks' docstrings are tested on these.
PROBE_TAGS = (
    (f"{OPTIMAL_VARIANCE}/variance/<layer>", "variance of the layer's weights, per probe step"),
    (f"{OPTIMAL_VARIANCE}/drift/<layer>", "relative change over the horizon, per probe step"),
    (f"{OPTIMAL_VARIANCE}/kl/<layer>", "KL(N(0, V) || N(0, V before)) in nat, per probe step"),
    (f"{OPTIMAL_VARIANCE}/sigma0/<layer>", "standard deviation of the real run's first weights"),
    (f"{OPTIMAL_VARIANCE}/ratio/<layer>", "V over the realised variance before the probe"),
    (f"{OPTIMAL_VARIANCE}/force/<name>/<layer>", "drive, decay, relaxation_steps, steady_state"),
    (f"{OPTIMAL_VARIANCE}/report/text_summary", "the report as a table"),
    (f"{OPTIMAL_VARIANCE}/figure/<name>", "figures, if matplotlib is installed"),
    (f"{OPTIMAL_VARIANCE}/tolerance", "the drift that counts as none, to compare with"),
    (f"{OPTIMAL_VARIANCE}/band/<name>/<layer>", "confidence limits of V and of the drift"),
)
RUN_TAGS = (
    (f"{OPTIMAL_VARIANCE}/run_variance/<layer>", "variance of the weights, in the real run"),
    (f"{OPTIMAL_VARIANCE}/score/text_summary", "whether the probe was right, at the run's end"),
)
OPTIMAL_VARIANCE_TAGS = PROBE_TAGS + RUN_TAGS
FRACTIONAL_MOMENT_TAGS = (
    (f"{FRACTIONAL_MOMENT}/std/<layer>", "standard deviation of the layer's first weights"),
    (f"{FRACTIONAL_MOMENT}/log_norm/<layer>", "measured log-norm of the layer's input"),
    (f"{FRACTIONAL_MOMENT}/log_norm_predicted/<layer>", "its mean by the theory"),
    (f"{FRACTIONAL_MOMENT}/figure/log_norm", "both through the depth, if matplotlib is installed"),
)
# The fields of a row that are logged as forces.
FORCES = ("drive", "decay", "relaxation_steps", "steady_state")
TOLERANCE = f"{OPTIMAL_VARIANCE}/tolerance"


def tag(prefix: str, quantity: str, layer: str) -> str:
    """Name a series in the alphabet that every logger accepts: ASCII letters, digits, `_-./`.

    >>> tag("OptimalVarianceInit", "variance", "net.0")
    'OptimalVarianceInit/variance/net.0'
    >>> tag("OptimalVarianceInit", "variance", "block[0] σ")
    'OptimalVarianceInit/variance/block_0___'
    """
    return re.sub(r"[^A-Za-z0-9_./-]", "_", f"{prefix}/{quantity}/{layer}")
