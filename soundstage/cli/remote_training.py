"""A training on a server, as a command has it: queued, watched with bars, and its files written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.cli.remote import cancelled_elsewhere, check_new
from soundstage.cli.train import fields_of_words
from soundstage.errors import RequestError

if TYPE_CHECKING:
    from soundstage.client.client import Client
    from soundstage.client.handles import RemoteHandle

LORA, DATASET = ".safetensors", "dataset."


def trained(
    client: Client,
    config: str,
    words: Sequence[str],
    given: Mapping[str, Any],
    output: Path | None,
    *,
    force: bool,
    detach: bool,
) -> Iterator[str]:
    """Train on a server, and yield the lines to print: the paths of files, or the job's id.

    words: fields as NAME=VALUE. output: a .safetensors file or a folder.
    """
    whole = output is not None and output.suffix.lower() != LORA
    if output is not None and not whole:
        check_new(output, force)
    elif whole and output is not None and output.exists() and not output.is_dir():
        raise RequestError(
            f"output is {output}, which is a file of another kind; end it in {LORA}", field="output"
        )
    fields = {name: value for name, value in given.items() if value is not None}
    place = fields.pop("data", None)
    changes = fields_of_words(words)
    own = [name for name in changes if name.startswith(DATASET)]
    dataset = {name.removeprefix(DATASET): changes.pop(name) for name in own}
    handle = client.train(place, config, dataset=dataset, **fields, **changes)
    if detach:
        yield handle.id
        return
    path = output or Path(f"{handle.id}{LORA}")
    _watched(handle)
    with cancelled_elsewhere():
        if whole:
            yield from map(str, handle.save_all(path, overwrite=force))
        else:
            yield str(handle.save(path, overwrite=force))


def _watched(handle: RemoteHandle) -> None:
    """Show the events of a training until it has ended. An interrupt cancels it."""
    from soundstage.client.bars import RemoteBars

    try:
        with RemoteBars(handle.job) as bars:
            for event in handle:
                bars.show(event)
    except KeyboardInterrupt as stop:
        handle.cancel()
        stop.add_note(f"{handle.id} is cancelled")
        raise
