"""Write the losses of a run for TensorBoard, where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soundstage.errors import MissingExtraError
from soundstage.training.loop import StepDone
from soundstage.training.tuning.config import TrainConfig


def check_tensorboard() -> None:
    """Raise MissingExtraError where TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("train", "logs: tensorboard") from error


@contextmanager
def curves_of(config: TrainConfig) -> Iterator[Callable[[StepDone], None]]:
    """Yield what takes each step of a run; it writes nothing where no logs are asked for."""
    if config.logs == "none":
        yield lambda event: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(Path(config.output) / "log"))  # type: ignore[no-untyped-call]

    def write(event: StepDone) -> None:
        for name, value in event.losses.items():
            writer.add_scalar(f"loss/{name}", value, event.step)
        writer.add_scalar("pace/seconds a step", event.pace.step_s, event.step)

    try:
        yield write
    finally:
        writer.close()
