"""Enhance a prompt by a language model or by rules, so that it passes the rules of prompts.

A model's answer that breaks rules, or loses words that were quoted, is asked for once more; then what is
mechanical is corrected; then the rules alone are taken. What was done is told in the result's notices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from soundstage.enhancing.by_rules import enhanced_by_rules
from soundstage.enhancing.changes import WordChange, word_changes
from soundstage.enhancing.systems import asked_again, asked_text, system_prompt
from soundstage.errors import ConfigError, RequestError, WeightsError, shown
from soundstage.fields.record import record, unit
from soundstage.prompts.findings import Finding
from soundstage.prompts.lint import corrected, lint, warnings_of
from soundstage.prompts.openings import without_opening
from soundstage.prompts.rules_form import BULLET
from soundstage.prompts.timeline import part_marks, quotations
from soundstage.writing.asked import Question, Writer

By = Literal["auto", "gemma", "endpoint", "rules"]
_PLAIN = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'", "\u2032": "'", "\u2014": "-",
     "\u2013": "-", "\u2212": "-", "\u00a0": " ", "\u202f": " "}
)  # fmt: skip


@record
class Enhancing:
    """The way in which prompts are enhanced."""

    by: By = "auto"
    """gemma: the model's own text encoder; endpoint: a server's model; rules: no model; auto: the endpoint if
    a url is given, else Gemma where it can write, else rules."""

    url: str | None = None
    """Address of an OpenAI-compatible server, such as http://localhost:8000/v1."""

    writer: str | None = None
    """The server's model by name; without a url a folder or file of Gemma 3, not the text encoder."""

    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key, if it wants one."""

    max_tokens: Annotated[int, Field(ge=16, le=4096)] = 512
    """Longest answer."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """How freely words are drawn; 0 takes the most likely ones."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of the drawing."""

    timeout_s: Annotated[float, Field(gt=0, le=3600), unit("seconds")] = 120.0
    """How long to wait for a server's answer."""

    retries: Annotated[int, Field(ge=0, le=20)] = 2
    """How often a call that failed in passing is made again."""


@dataclass(frozen=True)
class Enhanced:
    """An enhanced prompt.

    before: as it was. by: gemma, endpoint or rules, which wrote it. negative_prompt: words that were moved
    out. findings: what the rules still find. notices: what happened on the way.
    """

    prompt: str
    before: str
    by: str
    negative_prompt: str = ""
    findings: tuple[Finding, ...] = ()
    notices: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what came of it as JSON has it."""
        return {
            "enhanced": self.prompt,
            "by": self.by,
            "negative_prompt": self.negative_prompt,
            "changes": [change._asdict() for change in self.changes],
            "findings": [finding.to_dict() for finding in self.findings],
            "notices": list(self.notices),
        }

    @property
    def changes(self) -> list[WordChange]:
        """The words that stayed, went and came."""
        return word_changes(self.before, self.prompt)


class Enhancer:
    """Enhances prompts in one way; a model is loaded for the first that needs it."""

    def __init__(self, enhancing: Enhancing, text_encoder: Path | None = None, device: str = "auto") -> None:
        """text_encoder: the model's own, folder or file.

        Raises RequestError for a way that cannot be gone, before anything is loaded.
        """
        self.enhancing = enhancing
        self.notices: list[str] = []
        self._gemma = Path(enhancing.writer) if enhancing.writer and not enhancing.url else text_encoder
        self._device = device
        self.by = self._way()
        self._writers: dict[bool, Writer] = {}

    def _way(self) -> str:
        by, url = self.enhancing.by, self.enhancing.url
        if by == "endpoint" and not url:
            raise RequestError(
                "by is endpoint, and no url is given; give one, such as http://localhost:8000/v1", field="url"
            )
        if by in ("gemma", "rules") and url:
            raise RequestError(
                f"by is {by}, which asks no server; leave url out, or give by endpoint", field="url"
            )
        if by == "rules" or url:
            return "rules" if by == "rules" else "endpoint"
        told = self._why_gemma_cannot()
        if told is None:
            return "gemma"
        if by == "gemma" or self.enhancing.writer:
            raise RequestError(f"{told}; give a Gemma 3 12B, or enhance by endpoint or rules", field="writer")
        self.notices.append(f"{told}; enhanced by rules")
        return "rules"

    def _why_gemma_cannot(self) -> str | None:
        """Return why Gemma cannot write, None where it can."""
        from soundstage.writing.gemma import can_write

        if self._gemma is None:
            return "there is no text encoder here"
        if not self._gemma.exists():
            return f"there is no {self._gemma}"
        try:
            able = can_write(self._gemma)
        except (ConfigError, WeightsError) as error:
            return str(error)
        return None if able else f"the text encoder {self._gemma} reads prompts, but writes none"

    def __call__(self, prompt: str, *, image: str | Path | None = None, **judged: Any) -> Enhanced:
        """Return a better prompt.

        image: the first picture, for a model that sees. judged: arguments of `lint`.
        Raises RequestError for an empty prompt, MediaError for a picture that cannot be read, and what the
        writer raises.
        """
        before = prompt.strip()
        if image is not None:
            judged = {**judged, "kind": "image"}
        lint(before, **judged)  # refuses what is no prompt
        if self.by == "rules" or judged.get("vocabulary") is not None:
            notices = (
                [] if self.by == "rules" else ["a small model knows its own words only; enhanced by rules"]
            )
            return self._by_rules(before, judged, [*self.notices, *notices])
        if part_marks(before):
            notices = [*self.notices, "the parts of a timed prompt are kept; enhanced by rules"]
            return self._by_rules(before, judged, notices)
        return self._by_model(before, image, judged)

    def _by_rules(self, before: str, judged: dict[str, Any], notices: list[str]) -> Enhanced:
        text, negative = enhanced_by_rules(before, judged)
        return Enhanced(text, before, "rules", negative, tuple(lint(text, **judged)), tuple(notices))

    def _by_model(self, before: str, image: str | Path | None, judged: dict[str, Any]) -> Enhanced:
        writer, notices = self._writer(image is not None), list(self.notices)
        pictures: tuple[Any, ...] = ()
        if image is not None and writer.sees:
            pictures = (_picture(image),)
        elif image is not None:
            notices.append("the writer sees no pictures, so it was given the words alone")
        settings = self.enhancing
        system = system_prompt(str(judged.get("kind", "text")), sees=bool(pictures))

        def ask(text: str, seed: int) -> str:
            question = Question(text, system, pictures, settings.max_tokens, settings.temperature, seed)
            try:
                return cleaned(writer.write(question))
            except ConfigError:  # an empty answer, which is a fault as others are
                return ""

        answer = ask(asked_text(before), settings.seed)
        faults = faults_of(before, answer, judged)
        if faults:
            answer = ask(asked_again(before, answer, faults), settings.seed + 1)
            faults = faults_of(before, answer, judged)
        negative = ""
        if faults:
            fixed = corrected(answer, **judged) if answer.strip() else None
            if fixed is not None and not faults_of(before, fixed.prompt, judged):
                notices.append("plain faults of the answer were corrected by rules")
                answer, negative, faults = fixed.prompt, fixed.negative_prompt, []
        if faults:
            told = faults[0] if isinstance(faults[0], str) else f"{faults[0].rule}: {faults[0].why}"
            return self._by_rules(
                before, judged, [*notices, f"two answers were refused ({told}); enhanced by rules"]
            )
        return Enhanced(answer, before, self.by, negative, tuple(lint(answer, **judged)), tuple(notices))

    def _writer(self, with_picture: bool) -> Writer:
        """Return what writes, loaded once."""
        if with_picture not in self._writers:
            self._writers[with_picture] = self._made_writer(with_picture)
        return self._writers[with_picture]

    def _made_writer(self, with_picture: bool) -> Writer:
        settings = self.enhancing
        if self.by == "endpoint":
            from soundstage.writing.served import ServedWriter

            model = settings.writer or "default"
            return ServedWriter(
                settings.url or "", model, settings.key_variable, settings.timeout_s, settings.retries
            )
        assert self._gemma is not None
        if with_picture and _has_vision(self._gemma):
            from soundstage.writing.local import LocalWriter

            return LocalWriter(self._gemma, self._device)
        from soundstage.writing.gemma import GemmaWriter

        return GemmaWriter(self._gemma, self._device)


def enhance(
    prompt: str,
    by: By = "auto",
    *,
    image: str | Path | None = None,
    model: str | Path = "nano",
    seconds: float | None = None,
    sounds: bool = True,
    **settings: Any,
) -> Enhanced:
    """Return a better prompt, with what changed and what the rules still find.

    by: auto, gemma, endpoint or rules. image: the first picture of the clip. model: the one that it is for,
    whose text encoder writes. seconds: length of the clip. sounds: it has sound. settings: other
    fields of Enhancing, such as url.
    """
    from soundstage.library.model_files import find_model
    from soundstage.prompts.vocabulary import Vocabulary

    found = find_model(model)
    enhancer = Enhancer(Enhancing(by=by, **settings), found.text_path)
    words = Vocabulary.of_folder(found.folder)
    return enhancer(prompt, image=image, seconds=seconds, sounds=sounds, vocabulary=words)


def cleaned(answer: str) -> str:
    """Return a model's answer as a prompt: plain marks, one paragraph, nothing before its first letter."""
    text = answer.translate(_PLAIN)
    text = re.sub(r"```\w*|[*_#`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}", "", text)
    text = " ".join(BULLET.sub("", line).strip() for line in text.splitlines() if line.strip())
    text = re.sub(
        r"^(?:answer|prompt|enhanced prompt|the description|description)\s*:\s*", "", text, flags=re.I
    )
    if text.startswith('"') and text.endswith('"') and text.count('"') == 2:
        text = text[1:-1]
    return without_opening(re.sub(r"^[^\w\"']+", "", text)).strip()


def faults_of(before: str, answer: str, judged: dict[str, Any]) -> list[Finding | str]:
    """Return what is wrong with an answer: warnings of the rules, and quoted words that were lost."""
    if not re.search(r"[^\W\d_]{2}", answer):
        return ["the answer is empty"]
    lost = [
        before[start:end]
        for start, end in quotations(before)
        if _bare(before[start:end]) not in _bare(answer)
    ]
    told = [f"the words {shown(words)} have to be there, letter by letter" for words in lost]
    return [*told, *warnings_of(lint(answer, **judged))]


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.translate(_PLAIN).lower()))


def _picture(path: str | Path) -> Any:
    from soundstage.media.load import frames_shown
    from soundstage.writing.asked import smaller

    return smaller(next(iter(frames_shown(str(path), [0.0], 24.0))))


def _has_vision(path: Path) -> bool:
    """Return whether a folder holds the whole of Gemma 3, with its vision half, as transformers reads it."""
    import json

    config = path / "config.json"
    if not config.is_file() or not any((path / f"{n}processor_config.json").is_file() for n in ("", "pre")):
        return False
    return "vision_config" in json.loads(config.read_text())
