"""Write a new script: an annotated example that runs on nano, or a film of one sentence."""

from __future__ import annotations

import json
from pathlib import Path

from soundstage.errors import RequestError, shown
from soundstage.files import check_writable, whole_file
from soundstage.production.reading import SCREENPLAYS

EXAMPLES = Path(__file__).with_name("examples")
SUFFIXES = (".yaml", ".yml", *SCREENPLAYS)
TITLE_WORDS = 6


def new_script(path: str | Path, sentence: str | None = None, *, overwrite: bool = False) -> Path:
    """Write a script and return its path.

    path: a .yaml file, or a .fountain one for a screenplay. sentence: what the one shot of the film shows;
    None writes the annotated example. Raises RequestError for another kind of file and for an empty sentence,
    MediaError for a file that is there and one that cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise RequestError(f"the script is {shown(str(path))}; give a file that ends in .yaml or .fountain")
    screenplay = file.suffix.lower() in SCREENPLAYS
    text = (EXAMPLES / f"film.{'fountain' if screenplay else 'yaml'}").read_text(encoding="utf-8")
    if sentence is not None:
        text = _of_sentence(" ".join(sentence.split()), screenplay=screenplay)
    check_writable(file, SUFFIXES, overwrite=overwrite)
    with whole_file(file, overwrite=overwrite) as part:
        part.write_text(text, encoding="utf-8")
    return file


def _of_sentence(sentence: str, *, screenplay: bool) -> str:
    if not sentence:
        raise RequestError("the sentence is empty; say what the film shows", field="sentence")
    words = sentence.rstrip(".!?").split()
    title = " ".join(words[:TITLE_WORDS]) + ("..." if len(words) > TITLE_WORDS else "")
    if screenplay:
        return f"Title: {title}\n\n!{sentence}\n"
    return (
        f"title: {json.dumps(title, ensure_ascii=False)}\nshots: {json.dumps(sentence, ensure_ascii=False)}\n"
    )
