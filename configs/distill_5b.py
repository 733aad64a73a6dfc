"""The 5B model of configs/finetune_5b.py distilled: 4 evaluations a story instead of 100.

Run: python -m m2dit_jax.train --config=configs/distill_5b.py --workdir=runs/distill_5b
on the same data, with the run of stage 2 as the teacher (`config.distill.teacher`), or a model
folder.

Hardware: nothing of this size was run. Beside the state of configs/finetune_5b.py there are the
teacher's weights in bfloat16, 10 GiB over all devices. The settings are choices, not the paper's,
which does not distil.
"""

from ml_collections import ConfigDict

from configs import finetune_5b
from configs.distill_base import distill


def get_config() -> ConfigDict:
    """configs/finetune_5b.py as the student of its run."""
    config = distill(finetune_5b.get_config(), "runs/finetune_5b")
    config.distill.teacher_steps = 40
    config.train.init_from = ""  # from the teacher
    return config
