"""Several clips of one command: their prompts, from words, files and standard input, their seeds, the tally.

A file has one prompt on each line, or one JSON object of a request's fields on each line; its first character
says which. Everything is read and checked before the first clip is made.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli import process
from soundstage.cli.naming import PlannedClip
from soundstage.cli.options import Values
from soundstage.cli.printing import json_text
from soundstage.cli.request_fields import check_files, request_fields
from soundstage.cli.telling import failure, spoken_within
from soundstage.errors import RequestError, SoundstageError

if TYPE_CHECKING:
    from soundstage.cli.results import Saved
    from soundstage.request.request import Request

STDIN = "-"
MAX_CLIPS = 200  # the name of each is held open, and systems allow 256 open files and more
MAX_BYTES = 2**24  # of a file of prompts
NUM_SHOWN = 60  # letters of a prompt in an announcement


@dataclass(frozen=True)
class AskedClip:
    """A request. where: the line or word that asks for it, "" where there is only one. fields: those that a
    line of JSON names. note: about its seed, for people."""

    request: Request
    where: str
    fields: Collection[str]
    note: str


def prompts_option(command: Any) -> Any:
    """Give a command the option that reads prompts from a file."""
    option = click.option(
        "--prompts",
        metavar="FILE",
        help="Read prompts from this file, one on each line, or one JSON object of a request's fields on "
        "each; - is standard input. Empty lines and lines that begin with # are left out.",
    )
    return option(command)


def many_options(command: Any) -> Any:
    """Give a command the options that make each clip several times."""
    options = (
        click.option("--seeds", metavar="NUMBERS", help="Make each clip with these seeds: 1-4, or 1,5,9."),
        click.option(
            "--takes",
            type=click.IntRange(min=1),
            metavar="COUNT",
            help="Make each clip this many times, with seeds counted up from --seed.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def asked_for(prompts: Sequence[str], values: Values, shared: Values | None = None) -> list[AskedClip]:
    """Return the requests of a command line, each prompt with each seed.

    shared: the fields of all of them; None reads the command's options.

    Prompts without a seed share one that is drawn, so that they can be compared. Raises RequestError for the
    first that is wrong, and says on which line.
    """
    from soundstage.request.request import Request

    shared = request_fields(values) if shared is None else shared
    seeds, drawn = _seeds(values), functools.cache(values.get("draw_seed", _drawn_seed))
    found: list[AskedClip] = []
    reword = values.get("reword")  # what takes the place of a request's prompt
    for where, fields in wishes(prompts, values):
        named = () if fields.keys() == {"prompt"} else fields.keys()
        with about(where, named):
            try:
                request = Request(**{**shared, **fields})
            except RequestError as error:
                if error.field == "source":  # a file that is not there is told first
                    check_files({**shared, **fields})
                raise
            if reword is not None:
                fields = {**fields, "prompt": reword(request)}
            first, note = (0, "") if seeds else _first_seed(request, drawn)
            varied = seeds or range(first, first + (values.get("takes") or 1))
            if len(found) + len(varied) > MAX_CLIPS:
                raise RequestError(
                    f"more than {MAX_CLIPS} clips are asked for; make them by several commands"
                )
            clips = (Request(**{**shared, **fields, "seed": seed}) for seed in varied)
            found += [AskedClip(clip, where, named, note) for clip in clips]
    return found


@contextmanager
def about(where: str, fields: Collection[str] = ()) -> Iterator[None]:
    """Put before the message of an error what it is about. fields: those that a line of JSON names itself."""
    try:
        yield
    except SoundstageError as error:
        field = getattr(error, "field", None)
        error.in_file = bool(fields) and (field is None or field in fields)
        if where:
            error.args = (f"{where}: {error}", *error.args[1:])
        raise


class Tally:
    """Announce each clip of a command, tell the failure of one and go on, and sum up at the end.

    A command for one clip announces and sums up nothing, and its failure is the command's own. say: prints a
    line for people.
    """

    def __init__(self, total: int, say: Callable[[str], None], *, as_json: bool) -> None:
        self._total, self._say, self._as_json = total, say, as_json
        self._made = self._failed = 0
        self._began = time.monotonic()

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and self.many:
            missing = self._total - self._made
            error.add_note(f"{self._made} of {self._total} clips made and kept, {missing} missing")

    @property
    def many(self) -> bool:
        return self._total > 1

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that the JSON line of the current clip has besides its own."""
        return {"index": self._made + self._failed + 1} if self.many else {}

    @contextmanager
    def clip(self, what: str) -> Iterator[None]:
        """Make one clip in this block. what: what people are told of it."""
        if self.many:
            self._say(f"clip {self.facts['index']} of {self._total}: {what}")
        try:
            yield
        except (SoundstageError, OSError, MemoryError) as error:
            if not self.many or _ends_all(error):
                raise
            self._tell(error)
            self._failed += 1
        else:
            self._made += 1

    def skip(self, path: Path) -> Saved:
        """Print a clip that an earlier run of the command has made, and count it."""
        from soundstage.cli.results import Saved
        from soundstage.clip import read_provenance

        saved = Saved(path, None)
        self._say(f"clip {self._made + self._failed + 1} of {self._total} is made already")
        facts = {**read_provenance(path), **self.facts} if self._as_json else {}
        saved.tell(facts, as_json=self._as_json, say=self._say)
        self._made += 1
        return saved

    def end(self, contact_sheet: str | None) -> None:
        """Print the summary of several clips. Exits with code 1 if one failed."""
        if not self.many:
            return
        seconds = time.monotonic() - self._began
        failed = f", {self._failed} failed" if self._failed else ""
        self._say(f"made {self._made} of {self._total} clips{failed}, in {seconds:.1f} s")
        if self._as_json:
            counts = {"made": self._made, "failed": self._failed, "seconds": round(seconds, 1)}
            print(json_text({"summary": {**counts, "contact_sheet": contact_sheet}}))
        if self._failed:
            raise click.exceptions.Exit(process.FAULT)

    def _tell(self, error: Exception) -> None:
        told = failure(error, spoken_within(click.get_current_context()))
        if self._as_json:
            print(json_text({"error": told.to_dict(), **self.facts}))
        else:
            print(f"soundstage: clip {self.facts['index']}: {told.message}", file=sys.stderr)


def _ends_all(error: BaseException) -> bool:
    """Return whether an error ends the command: its output is closed, or a signal came."""
    if isinstance(error, OSError) and (
        isinstance(error, BrokenPipeError) or error.filename == process.OUTPUT
    ):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def in_short(planned: PlannedClip) -> str:
    """Return the seed and the beginning of the prompt of a clip."""
    prompt = " ".join(planned.request.prompt.split())
    short = prompt if len(prompt) <= NUM_SHOWN else f"{prompt[:NUM_SHOWN]}..."
    return f"seed {planned.request.seed}, {short}"


# --- Prompts ------------------------------------------------------------------------------------------


def wishes(prompts: Sequence[str], values: Values) -> Iterator[tuple[str, Values]]:
    """Yield (where it was given, fields of the request) of each prompt of a command line."""
    takes_many, file = "prompts" in values, values.get("prompts")
    one_words = [prompt for prompt in prompts if prompt != STDIN and not prompt.strip().count(" ")]
    if len(prompts) > 1 and one_words:  # a sentence without quotation marks
        context = click.get_current_context()
        raise click.UsageError(f"Got unexpected extra arguments ({' '.join(one_words)})", context)
    for number, prompt in enumerate(prompts, 1):
        if takes_many and prompt == STDIN:
            yield from _lines(STDIN)
        else:
            yield f"PROMPT {number}" if len(prompts) > 1 or file else "", {"prompt": prompt}
    if file is not None:
        yield from _lines(file)


def _lines(file: str) -> Iterator[tuple[str, Values]]:
    """Yield (where it stands, fields of the request) of each line of a file."""
    name = "standard input" if file == STDIN else file
    text = _text(file, name)
    if text.lstrip().startswith("{") and (one := _whole_record(text)):
        yield name, one
        return
    numbered = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    lines = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not lines:
        raise RequestError(f"{name} holds no prompt; write one on each line")
    are_records = lines[0][1].startswith("{")
    for number, line in lines:
        where = f"line {number} of {name}"
        with about(where):
            fields = _record(line) if are_records else {"prompt": _words(line)}
        yield where, fields


def _text(file: str, name: str) -> str:
    try:
        with click.open_file(file, "rb") as stream:
            data: bytes = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"--prompts is {name}, which cannot be read ({reason}); give a text file, or - for standard input"
        ) from error
    if len(data) > MAX_BYTES:
        raise RequestError(f"{name} is larger than {MAX_BYTES >> 20} MB; give a file of prompts")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{name} is no text in UTF-8; give one prompt on each line") from None


def _words(line: str) -> str:
    """Return a line of a file of prompts. Raises RequestError for JSON, which would be read as words."""
    if re.match(r'\{\s*"', line):
        raise RequestError("this is JSON in a file of prompts; write a prompt, or one object on every line")
    return line


def _whole_record(text: str) -> Values:
    """Return the fields of a file that is one object over several lines; nothing for other files."""
    try:
        return _record(text) if "\n" in text.strip() else {}
    except RequestError:
        return {}


def _record(line: str) -> Values:
    """Return the fields of a line: a request in JSON, or what --json prints of a clip, which holds one."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"this is not JSON ({error}); write one object of fields on each line") from None
    fields = data.get("request", data) if isinstance(data, dict) else data
    if not isinstance(fields, dict):
        raise RequestError('this is no object; write the fields of a request, such as {"prompt": "Rain."}')
    return fields


# --- Seeds --------------------------------------------------------------------------------------------


def _drawn_seed() -> tuple[int, str]:
    from soundstage.planning.seeds import draw_seed

    seed = draw_seed()
    return seed, f"seed {seed} was drawn"


def _first_seed(request: Request, drawn: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Return the seed of a request, of the take in its folder, or the drawn one; and what to say of it."""
    from soundstage.planning.seeds import folder_seed

    if request.seed is not None:
        return request.seed, ""
    kept = folder_seed(request)
    if kept is not None:
        return kept, f"seed {kept} is that of the take in the folder"
    return drawn()


def _seeds(values: Values) -> list[int]:
    """Return the numbers of --seeds. Raises RequestError for other words, and beside --seed and --takes."""
    text: str | None = values.get("seeds")
    if text is None:
        return []
    for other in ("seed", "takes"):
        if values.get(other) is not None:
            raise RequestError(f"both --seeds and --{other} are given; keep one")
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not _is_seed(first) or (dash and not (_is_seed(last) and int(first) <= int(last))):
            raise RequestError(f"--seeds is '{text}'; give numbers such as 1-4 or 1,5,9")
        if dash and int(last) - int(first) >= MAX_CLIPS:
            raise RequestError(f"--seeds is '{text}', which is more than {MAX_CLIPS} clips; give fewer")
        found += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(found))


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
