from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer
from models import QUIET, Regression, regression_loader

from lightning_init import OptimalVarianceInit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.usefixtures("draw_all"),
]


@pytest.mark.parametrize("budget", [8, 1000])
def test_entries_before_and_at_the_end_of_the_probe_are_kept_for_the_histograms(
    budget: int,
) -> None:
    model = Regression()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    callback = OptimalVarianceInit(budget, verbose=False, on_unsettled="use")
    trainer = Trainer(max_epochs=3, callbacks=[callback], **QUIET)
    trainer.fit(model, regression_loader())
    assert callback.report is not None
    samples = {one.name: one for one in callback.report.weight_samples}
    assert set(samples) == {"net.0", "net.2", "net.4"}
    for name, sample in samples.items():
        weight = before[f"{name}.weight"].flatten()
        assert torch.equal(torch.from_numpy(sample.before), weight[:: -(-len(weight) // 1024)])
        assert sample.after.shape == sample.before.shape
        assert (sample.after != sample.before).any()
        assert sample.after.astype(float).var() == pytest.approx(
            callback.report[name].variance, rel=0.3
        )
    assert "weight_samples" not in callback.report.to_dict()


def test_figure_shows_one_panel_per_layer() -> None:
    from lightning_init.reporting.figures import report_images
    from lightning_init.reporting.weight_figures import weight_panels

    callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
    Trainer(max_epochs=1, callbacks=[callback], **QUIET).fit(Regression(), regression_loader())
    assert callback.report is not None
    figure = weight_panels(callback.report.weight_samples)
    assert sum(axes.get_title() != "" for axes in figure.axes) == 3
    assert "4_weights" in report_images(callback.report)
