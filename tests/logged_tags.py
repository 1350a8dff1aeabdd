"""Every tag that is ever written, with its meaning: what docstrings and pages are held against."""

from __future__ import annotations

from lightning_init.reporting.tensorboard import AT_A_GLANCE, FRACTIONAL_MOMENT, OPTIMAL_VARIANCE

PROBE_TAGS = (
    (f"{AT_A_GLANCE}/1_first_weights", "figure of what the first weights become"),
    (f"{AT_A_GLANCE}/2_variance", "figure, and curves of V over V before"),
    (f"{AT_A_GLANCE}/3_drift", "figure, and curves of the drift with the tolerance"),
    (f"{AT_A_GLANCE}/4_weights", "histograms of the weights before and after the probe"),
    (f"{OPTIMAL_VARIANCE}/report/text_summary", "the report as a table"),
    (f"{OPTIMAL_VARIANCE}/variance/<layer>", "variance of the layer's weights, per probe step"),
    (f"{OPTIMAL_VARIANCE}/drift/<layer>", "relative change over the horizon, per probe step"),
    (f"{OPTIMAL_VARIANCE}/kl/<layer>", "KL(N(0, V) || N(0, V before)) in nat, per probe step"),
)
RUN_TAGS = (
    (f"{OPTIMAL_VARIANCE}/run_variance/<layer>", "variance of the weights, in the real run"),
    (f"{OPTIMAL_VARIANCE}/score/text_summary", "whether the probe was right, at the run's end"),
)
OPTIMAL_VARIANCE_TAGS = PROBE_TAGS + RUN_TAGS
FRACTIONAL_MOMENT_TAGS = (
    (f"{FRACTIONAL_MOMENT}/figure/first_weights", "what the weights become, layer by layer"),
    (f"{FRACTIONAL_MOMENT}/figure/log_norm", "predicted and measured log-norm through the depth"),
    (f"{FRACTIONAL_MOMENT}/plan/text_summary", "the plan as a table"),
)
