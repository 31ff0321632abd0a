"""Environment variables that Soundstage reads, besides those of options: docs/config.md has this table."""

from __future__ import annotations

from typing import NamedTuple


class Variable(NamedTuple):
    """A variable. takes: what it may be set to. meaning: what that does."""

    takes: str
    meaning: str


# Those of our own. An option of the same name, such as --cache, has only the variable of its command.
OWN: dict[str, Variable] = {
    "SOUNDSTAGE_CONFIG": Variable("FILE, off", "config file in place of the user's; off reads none at all"),
    "SOUNDSTAGE_LOG": Variable("LEVEL[:FILE]", "log at debug or info, to the terminal or the end of a file"),
    "SOUNDSTAGE_DEBUG": Variable("1", "print the traceback of an error too"),
    "SOUNDSTAGE_DTYPE": Variable("DTYPE", "number format where none is asked for: bfloat16, float32"),
    "SOUNDSTAGE_CACHE": Variable("FOLDER, off", "where encoded prompts and inputs are kept"),
    "SOUNDSTAGE_RENDERS": Variable("FOLDER, off", "where unfinished clips of commands are kept"),
    "SOUNDSTAGE_WORKERS": Variable("FOLDER, off", "where workers elsewhere keep the job under work"),
    "SOUNDSTAGE_TAKES": Variable("FOLDER, off", "where finished windows of long takes are kept"),
    "SOUNDSTAGE_FAST_PATHS": Variable("auto, off", "leave out fast paths of the processor and the GPU"),
    "SOUNDSTAGE_SERVER": Variable("URL", "server that `remote`, `mcp` and ss.Client call"),
    "SOUNDSTAGE_KEY": Variable("KEY", "key for that server"),
    "SOUNDSTAGE_WORKER_KEY": Variable("KEY", "key of a worker, which `serve` gives those it starts"),
    "SOUNDSTAGE_WORKER_ID": Variable("ID", "name by which `serve` knows a worker it started"),
    "SOUNDSTAGE_PARENT": Variable("PROCESS", "`serve` whose end is the end of a worker it started"),
    "SOUNDSTAGE_TRAINING": Variable("FOLDER", "where the training of nano keeps its states"),
}
# Those of other programs and of the system.
OTHERS: dict[str, Variable] = {
    "XDG_CONFIG_HOME": Variable("FOLDER", "home of the user's config folder, on Linux"),
    "XDG_CACHE_HOME": Variable("FOLDER", "home of the user's cache folder, on Linux"),
    "XDG_DATA_HOME": Variable("FOLDER", "home of the user's data folder with downloaded models, on Linux"),
    "COMFYUI_PATH": Variable("FOLDER", "a ComfyUI whose models are used"),
    "WANGP_PATH": Variable("FOLDER", "a WanGP whose models are used"),
    "HF_HOME": Variable("FOLDER", "home of the Hugging Face cache, which is searched"),
    "HF_HUB_CACHE": Variable("FOLDER", "the Hugging Face cache itself"),
    "HF_ENDPOINT": Variable("URL", "hub to download from, such as a mirror"),
    "HF_TOKEN": Variable("TOKEN", "what the hub knows you by, for models behind a licence"),
    "OMP_NUM_THREADS": Variable("COUNT", "threads of the processor to use"),
}
