"""Find the model that diffusers' words mean: a name of ours, a path, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError, SoundstageError, shown
from soundstage.library.catalog import FILES, by_file_name
from soundstage.library.installed import Library, hub_cache
from soundstage.library.model_files import ModelSet, find_model

# Repositories whose weights the catalogue has under a name of ours.
REPOSITORIES = {
    "lightricks/ltx-2.3": "ltx-2.3-dev",
    "lightricks/ltx-2.3-fp8": "ltx-2.3-dev-fp8",
    "lightricks/ltx-2.3-diffusers": "ltx-2.3-dev",
    "diffusers/ltx-2.3-diffusers": "ltx-2.3-dev",
    "diffusers/ltx-2.3-distilled-diffusers": "ltx-2.3-distilled",
}
WHOLE = ("model_index.json", "bundle.json")  # one of them is in a folder that holds one whole model


def model_of(name: Any, revision: str | None = None, cache_dir: Any = None) -> ModelSet:
    """Return the model of a name, paths, or a repository of the hub that is on this machine.

    Raises RequestError with the command that fetches it where it is not.
    """
    if not _is_repository(name):
        return find_model(name)
    folder = snapshot(name, revision, cache_dir)
    own = REPOSITORIES.get(str(name).lower())
    if folder is not None and (own is None or any((folder / file).is_file() for file in WHOLE)):
        return find_model(folder)
    if own is None:
        raise RequestError(_not_here(str(name)), field="model")
    try:
        return find_model(own)
    except SoundstageError as error:
        raise RequestError(f"'{name}' is '{own}' here: {error}", field="model") from error


def lora_file(source: Any, weight_name: str | None, revision: str | None, cache_dir: Any) -> Path:
    """Return the file of a LoRA: a file, one in a folder, or one of a repository that is on this machine.

    Raises RequestError for one that is not there, and for a folder in which weight_name leaves it open.
    """
    if not isinstance(source, (str, Path)):
        raise RequestError(
            f"a LoRA is {shown(source)}; give its .safetensors file, a folder with weight_name, or a "
            "repository of the hub"
        )
    place = Path(source)
    if _is_repository(source):
        found = snapshot(source, revision, cache_dir)
        if found is None:
            return _known_file(str(source), weight_name)
        place = found
    if place.is_dir() and weight_name is None:
        files = sorted(place.glob("*.safetensors"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "no .safetensors file"
            raise RequestError(f"{source} holds {names}; name one by weight_name", field="weight_name")
        return files[0]
    file = place / weight_name if weight_name and not place.is_file() else place
    if not file.is_file():
        raise RequestError(f"there is no file {file}; give a LoRA's .safetensors file")
    return file


def snapshot(name: Any, revision: str | None = None, cache_dir: Any = None) -> Path | None:
    """Return the folder of a repository in the hub's cache; None where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            str(name), revision=revision, cache_dir=cache_dir or hub_cache(), local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return Path(found)


def dtype_of(words: Mapping[str, Any]) -> Any:
    """Return the dtype of from_pretrained's words, of a dict the transformer's; None if not given."""
    if words.get("dtype") is not None and words.get("torch_dtype") is not None:
        raise RequestError("both dtype and torch_dtype are given; keep one", field="dtype")
    given = words.get("dtype") or words.get("torch_dtype")
    return given.get("transformer", given.get("default")) if isinstance(given, Mapping) else given


def _is_repository(name: Any) -> bool:
    """Return whether a name is OWNER/NAME and no path."""
    return isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()


def _not_here(name: str) -> str:
    """Return the sentence on a repository that is not here."""
    files = [file.name for file in FILES if file.repository.lower() == name.lower()]
    if files:
        return f"model is '{name}', which is not here; `soundstage models pull {files[0]}` fetches it"
    return (
        f"model is '{name}', which is not on this machine; `hf download {name}` fetches it if it is an "
        "LTX-2.3 model, and `soundstage models pull ltx-2.3-dev` the published one"
    )


def _known_file(repository: str, weight_name: str | None) -> Path:
    """Return a published LoRA that is here. Raises RequestError with the command that fetches it."""
    entries = [file for file in FILES if file.kind == "lora" and file.repository == repository]
    named = None if weight_name is None else by_file_name(weight_name)
    entry = named or (entries[0] if len(entries) == 1 else None)
    copies = () if entry is None else Library.open().find().get(entry.name, ())
    if copies:
        return copies[0].path
    command = (
        f"hf download {repository} {weight_name or ''}".strip()
        if entry is None
        else f"soundstage models pull {entry.name}"
    )
    raise RequestError(f"the LoRA '{repository}' is not on this machine; `{command}` fetches it")
