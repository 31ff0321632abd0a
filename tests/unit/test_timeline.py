"""Prompts with parts: how they are read, shared out, cut, and refused."""

import pytest

from soundstage.errors import RequestError
from soundstage.prompts.timeline import PromptTimeline, Relay, Segment, latent_edge_s, parse_timeline, share

FRAMES, FPS = 121, 24.0  # 16 latent frames, 5.0417 s


def parse(prompt: str, **options: object) -> PromptTimeline:
    return parse_timeline(prompt, **{"num_frames": FRAMES, "fps": FPS, **options})


def spans(timeline: PromptTimeline) -> list[tuple[str, float, float]]:
    return [(s.text, round(s.start_s, 4), round(s.end_s, 4)) for s in timeline.segments]


def test_a_plain_prompt_is_one_segment_over_the_whole_clip() -> None:
    timeline = parse("  A red ball rolls [slowly] at 3-4 m/s. ")
    assert timeline.texts == ("A red ball rolls [slowly] at 3-4 m/s.",)
    assert timeline.duration_s == FRAMES / FPS


def test_bars_share_the_clip_evenly_by_latent_frames() -> None:
    assert spans(parse("a | b")) == [("a", 0, 2.375), ("b", 2.375, 5.0417)]  # 8 and 8 latent frames
    edges = [s.end_s for s in parse("a | b | c").segments]
    assert edges == [latent_edge_s(6, FPS), latent_edge_s(11, FPS), FRAMES / FPS]  # the rest to the first


def test_latent_edges_are_those_of_the_causal_grid() -> None:
    assert [latent_edge_s(i, 1.0) for i in range(4)] == [0, 1, 9, 17]


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [("a | b", [24, 72]), ("a [1] | b [3]", None), ("a [0-30] | b [30-120]", None)],
)
def test_lengths_are_weights(prompt: str, lengths: list[float] | None) -> None:
    assert spans(parse(prompt, lengths=lengths)) == [("a", 0, 1.0417), ("b", 1.0417, 5.0417)]  # 4 and 12


def test_shares_go_by_largest_remainder_and_none_is_empty() -> None:
    assert share([1, 1, 1], 16) == [6, 5, 5]
    assert share([1, 2, 4], 10) == [1, 3, 6]
    assert share([1, 1000], 5) == [1, 4]
    assert share([1, 1, 1, 1000], 5) == [1, 1, 1, 2]
    with pytest.raises(RequestError, match="3 segments, but the clip has only 2 latent frames"):
        share([1, 1, 1], 2)


def test_times_in_seconds_and_percent_are_kept() -> None:
    assert spans(parse("[0-2s] a [2s - 5s] b")) == [("a", 0, 2), ("b", 2, 5.0417)]
    assert spans(parse("[0%:25%] a [25%:100%] b")) == [("a", 0, 1.2604), ("b", 1.2604, 5.0417)]
    assert spans(parse("[0-1.5s] a | [1.5s-end] b")) == [("a", 0, 1.5), ("b", 1.5, 5.0417)]
    assert spans(parse("[0-4s] a [4s-] b"))[1] == ("b", 4, 5.0417)


@pytest.mark.parametrize("prompt", ["In a meadow. || a | b", "In a meadow. [0-2s] a [2s-] b"])
def test_shared_words_stand_before_every_segment(prompt: str) -> None:
    assert parse(prompt).texts == ("In a meadow. a", "In a meadow. b")


def test_headings_are_taken_off() -> None:
    timeline = parse("In a meadow.\nScene 1: a\nstill a\nScene 2-3: b")
    assert timeline.texts == ("In a meadow. a\nstill a", "In a meadow. b")
    assert len(parse("Speaker 1: hello\nSpeaker 2: hi").segments) == 1


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("[0-2s] a [1-5s] b", {}, "0-2 s and 1-5 s overlap"),
        ("[0-2s] a [3-5s] b", {}, "nothing between 2 s and 3 s"),
        ("[2-5s] b [0-2s] a", {}, "out of order: 0-2 s comes after 2-5 s"),
        ("[1-5s] b", {}, "nothing before 1 s"),
        ("[0-2s] a [2-9s] b", {}, r"2-9 s is beyond the clip, which lasts 5\.042 s"),
        ("[0-2s] a [2-4s] b", {}, "nothing after 4 s"),
        ("[2-1s] a", {}, "ends before it starts"),
        ("[0-2s] [2-5s] b", {}, "segment 1 of the prompt is empty"),
        ("a | | c", {}, "segment 2 of the prompt is empty"),
        ("[0s-50%] a", {}, "mixes seconds and percent"),
        ("[0-2s] a | b [2-5s] c", {}, "write segments in one way"),
        ("a [3] | b", {}, "segment 2 of the prompt has no length"),
        ("a [9-3] | b [3]", {}, "segment 1 of the prompt has the length"),
        ("a | b", {"lengths": [1]}, "1 lengths are given for a prompt of 2 segments"),
        ("a | b", {"lengths": [1, -1]}, "give numbers above 0"),
        ("a [3] | b [3]", {"lengths": [1, 1]}, "lengths in brackets; keep one"),
        ("[0-5s] a", {"lengths": [1]}, "times of its own; keep one"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    prompt: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        parse(prompt, **options)


def test_a_part_is_cut_and_counted_from_its_own_start() -> None:
    timeline = parse("x || [0-2s] a [2-3s] b [3s-] c")
    assert timeline.cut(0, timeline.duration_s) == timeline
    part = timeline.cut(2.5, 4.0)
    assert part.segments == (Segment("b", 0.0, 0.5), Segment("c", 0.5, 1.5))
    assert part.texts == ("x b", "x c")
    again = parse_timeline(part.prompt(), num_frames=33, fps=33 / 1.5)
    assert again.texts == part.texts
    assert again.segments[0].end_s == pytest.approx(0.5)
    assert timeline.cut(0.0, 1.0).prompt() == "x a"


def test_the_sound_takes_the_pictures_relay_unless_told_otherwise() -> None:
    assert Relay(epsilon=0.1, audio_strength=2).of_audio() == Relay(epsilon=0.1, strength=2)
    with pytest.raises(RequestError, match="audio_epsilon is 1; give"):
        Relay(audio_epsilon=1.0)


@pytest.mark.parametrize(
    "words",
    [
        'A sign reads "OPEN | CLOSED" in the wind.',
        "A sign reads 'OPEN | CLOSED' in the wind.",
        "A sign reads \u201cOPEN | CLOSED\u201d and \u2018don\u2019t | do\u2019.",
        "Ein Schild: \u201eAUF | ZU\u201c, \u00bbAUF | ZU\u00ab, \u201aAUF | ZU\u2018.",
        "Une pancarte : \u00ab OUVERT | FERM\u00c9 \u00bb, \u2039a | b\u203a.",
        "\u62db\u724c\u5199\u7740\u300c\u5f00 | \u5173\u300d\u548c\u300e\u5f00 | \u5173\u300f",
        "She says 'I don't know | maybe' and laughs.",
        'The card reads "[0-2s] intro [2s-] verse".',
        'The card reads "take [2] | take [1]".',
        'A pipe of 5" says "IN | OUT".',
        "He says \"She said 'stop | go' twice.\"",
        'The page begins:\n"Act\nScene 1: dawn\nScene 2: dusk"',
    ],
)
def test_marks_within_quotation_marks_are_words(words: str) -> None:
    assert parse(words).texts == (words,)
    assert parse(f"{words} | b").texts == (words, "b")
    assert parse(f"[0-2s] a [2s-] {words}").texts == ("a", words)


@pytest.mark.parametrize(
    "prompt",
    [
        "A boy doesn't run | a girl won't stop",
        "the dogs' bowl is full | the cats' bowl is empty",
        "rock 'n' roll | jazz",
        "the '90s are back | the dogs' bowl",
        "'til dawn they dance | the dancers' shoes",
        "don\u2019t run | won\u2019t stop",
        'a 5" pipe | a 6" pipe',
        'She says "hello. | He says "bye."',
        "an open \u201cquote | b",
    ],
)
def test_apostrophes_inches_and_open_quotation_marks_quote_nothing(prompt: str) -> None:
    assert parse(prompt).texts == tuple(part.strip() for part in prompt.split("|"))


def test_a_backslash_makes_a_word_of_a_mark() -> None:
    assert parse(r"OPEN \| CLOSED | b").texts == ("OPEN | CLOSED", "b")
    assert parse(r"\[0-2s\] a \[2s-\] b").texts == ("[0-2s] a [2s-] b",)
    assert parse(r"C:\new \\| b").texts == (r"C:\new \| b",)
    assert parse(r'It reads "A \| B".').texts == ('It reads "A | B".',)
    assert parse(r"a \[1\] | b \[3\]").texts == ("a [1]", "b [3]")


def test_words_that_look_like_marks_survive_the_cut_into_windows() -> None:
    prompt = r'In "a | b". || one \[2\] \| x | two "[0-1s]" | three'
    whole = parse(prompt)
    assert whole.texts == ('In "a | b". one [2] | x', 'In "a | b". two "[0-1s]"', 'In "a | b". three')
    for start, end in ((0, 1.5), (1, 4), (4.5, FRAMES / FPS), (0, FRAMES / FPS)):
        cut = whole.cut(start, end)
        frames = round((end - start) * FPS)
        again = parse(cut.prompt(), num_frames=frames)
        assert again.texts == cut.texts
    lines = PromptTimeline((Segment("a\nScene 1: b\nScene 2: c", 0, FRAMES / FPS),))
    assert parse(lines.prompt()).texts == lines.texts


def test_a_message_shows_the_words_as_they_were_written() -> None:
    with pytest.raises(RequestError, match=r"also '\|' within 'a \"x \| y\" \| b'"):
        parse('[0-2s] a "x | y" | b [2s-] c')
