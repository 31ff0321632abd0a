"""Train modules: what nano's parts, LoRAs and fine-tuning share.

loop.py        one trainer for any module: a generator of events, with a state that survives a kill
steps.py       losses and gradients of a batch, on a GPU as recordings
batches.py     what a step is computed on
workers.py     data made ahead by other processes
optimizers.py  the schedule of rates; which weights AdamW and which Muon trains
muon.py        momentum, orthogonalised
noising.py     a batch noised by sampling's own rule, and the loss on velocities
precision.py   number formats and attention kernels, by device
attention.py   attention for training on a CPU
curves.py      the table of losses and its picture
factors.py     the factors of a LoRA
tuning/        LoRAs and small models trained on a dataset of a user's: `train` below
terminal.py    a trainer run in a terminal, until it is complete or a signal stops it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soundstage.training.tuning.config import TrainConfig
    from soundstage.training.tuning.session import TuningEvent


def train(
    config: TrainConfig | Mapping[str, Any] | str | Path,
    *,
    on_event: Callable[[TuningEvent], None] = lambda event: None,
    **changes: Any,
) -> Path:
    """Train a LoRA or a small model, and return the file or folder that was written last.

    config: a TrainConfig, its fields, a YAML file or the name of a recipe. changes: fields that win over it.
    on_event: is called at each step and file. A run whose folder is there goes on. Raises what is wrong with
    config, data or machine before any weight is read.
    """
    from soundstage.training.tuning.config import read_config
    from soundstage.training.tuning.session import FileWritten, TuningRun

    run = TuningRun(read_config(config, changes))
    last = run.folder
    for event in run.events():
        on_event(event)
        last = event.path if isinstance(event, FileWritten) else last
    return last
