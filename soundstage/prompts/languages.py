"""The language of a prompt, guessed from its letters and its commonest words. Pure data, no model."""

from __future__ import annotations

import re
import unicodedata

from soundstage.prompts.verbs import word_set

ENGLISH = "English"
# Stops of sentences: Latin, Chinese and Japanese, Arabic and Urdu, Indic, Khmer, Ethiopic, Armenian.
STOPS = ".!?\u2026\u3002\uff01\uff1f\uff0e\uff61\u061f\u06d4\u0964\u0965\u17d4\u1362\u0589"
QUOTES = '"\u201d\u300d\u300f\u00bb'  # that close what is said, behind its stop
_COMMON = {
    ENGLISH: """
    the a an of and in on with as is are his her its their to from at through into then while by it he
    she they this that across over behind under toward above when after for up down out who
    """,
    "French": """le la les un une des de du et dans sur avec est sont il elle qui au aux pour par sous vers
        se son sa ses ce cette une alors pendant en""",
    "German": """der die das ein eine einer einem einen und in im auf mit ist sind er sie es von zu zum zur
        den dem des durch unter hinter neben wird langsam während dann am""",
    "Spanish": """el la los las un una unos de del y en con es son que por para su sus se al sobre hacia bajo
        mientras entonces lentamente""",
    "Italian": """il lo la i gli le un una di del della e in con è sono che per su sul sulla nel nella mentre
        poi si al alla lentamente""",
    "Portuguese": """o a os as um uma de do da dos das e em no na com é são que por para seu sua se ao
        enquanto então sobre lentamente""",
    "Dutch": """de het een en in op met is zijn hij zij van naar door onder achter die dat aan bij langzaam
        terwijl dan""",
    "Polish": "w na z i do się jest przez po nad pod jego jej który która oraz powoli",
    "Swedish": "en ett och i på med är som av till för den det han hon sig under över genom medan sedan",
}
# Words of theirs that are English words too.
_SHARED = word_set("a i no as do in an am on die it he van son door over under at men per den so to with")
_WORDS = {
    language: word_set(words) - (_SHARED if language != ENGLISH else frozenset())
    for language, words in _COMMON.items()
}
# Beginnings of the names of letters in Unicode.
_SCRIPTS = {
    "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean", "CJK": "Chinese",
    "CYRILLIC": "Russian",
    "ARABIC": "Arabic", "HEBREW": "Hebrew", "DEVANAGARI": "Hindi", "GREEK": "Greek", "THAI": "Thai",
    "BENGALI": "Bengali", "TAMIL": "Tamil", "GEORGIAN": "Georgian", "ARMENIAN": "Armenian",
}  # fmt: skip
_FOREIGN_SHARE = 0.3  # of the letters, from which on a prompt is of their script


def language_of(text: str) -> str:
    """Return the language that a prompt is most likely in; English where nothing speaks against it.

    A Latin text is another language only where that one's commonest words are more than English ones.
    """
    script = _script(text)
    if script is not None:
        return script
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", text)]
    counts = {language: sum(word in known for word in words) for language, known in _WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] > counts[ENGLISH] and counts[best] >= 2 else ENGLISH


def _script(text: str) -> str | None:
    letters = [letter for letter in text if letter.isalpha()]
    found: dict[str, int] = {}
    for letter in letters:
        name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
        if name in _SCRIPTS:
            found[_SCRIPTS[name]] = found.get(_SCRIPTS[name], 0) + 1
    if sum(found.values()) <= _FOREIGN_SHARE * len(letters):
        return None
    return "Japanese" if "Japanese" in found else max(found, key=lambda language: found[language])
