"""Run by `test_script_and_spawn` in a process of its own.

`python ddp_script.py ddp DIRECTORY` probes; with a file of weights as the third argument it is the
reference run that starts from them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from test_ddp import Net, Recorder, loader, probe

    strategy, directory, weights = sys.argv[1], Path(sys.argv[2]), [Path(a) for a in sys.argv[3:]]
    directory.mkdir(exist_ok=True)
    seed_everything(3, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=30,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([] if weights else [probe()]), Recorder(directory, *weights)],
    )
    trainer.fit(Net(), loader())
