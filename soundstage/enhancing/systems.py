"""Instructions to a language model before it enhances a prompt, in our own words.

Source of what a prompt of LTX-2.3 should hold: docs/prompts.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from soundstage.prompts.findings import Finding

_ALWAYS = """
- Write in English. Only words within quotation marks may be in another language; copy them letter by
  letter.
- One paragraph of plain sentences, in the simple present ("walks", not "is walking"), in the order in
  which things happen. Join actions by as, then, while, when, after or before.
- Keep everything that was asked for: every person, thing, place, colour, number and action. Change none
  of it.
- Say only what a camera can see and a microphone can hear. No smell, taste or touch, no thoughts.
- Show feelings by what face, hands and shoulders do; describe people by age, build, clothes and position.
- Name sounds by what makes them, beside the action that makes them. Write speech only if it was asked
  for, with the speaker and how the voice sounds, and with the asked words within double quotation marks.
- Say what is there, never what is missing: no "no", "not" or "without".
- One continuous shot: no cuts, no fades, no times in numbers, no second scene.
- Do not begin with "The scene", "The video" or "We see". No lists, no headings, no markdown, no quotation
  of these rules, no remarks before or after. At most 150 words.
""".strip()

TEXT = f"""
You prepare prompts for a model that makes a short film with sound from a description. You are given a
description, often a short idea. Answer with one better description of the same film, and with nothing
else.

{_ALWAYS}
- Begin with "Style:" and a genre or look; cinematic and realistic if none was asked for.
- Add what is missing for a picture: the light, the air, materials, one small movement of a body or a
  thing, and the sounds of the place. Add no new people and no new events.
- If the camera is described, keep its movement; if it is not, say that it holds still, with the size of
  the shot.
- If the description is detailed already, change as little as you can.

For example, for the idea: a girl finds a key
Answer: Style: cinematic and realistic, a quiet mystery. In a static medium shot, a girl of about ten in a
yellow raincoat crouches beside a puddle as rain patters on her hood. Her fingers part the wet leaves,
then close around a small brass key that scrapes over the stone. She lifts it into the grey afternoon
light, and a drop falls from its teeth while a tram bell rings down the street.
""".strip()

IMAGE = f"""
You prepare prompts for a model that makes a short film with sound from a picture and a description. The
picture is the first frame. You are given the description{{seen}}. Answer with one better description of
what happens after that frame, and with nothing else.

{_ALWAYS}
- Describe only what changes: how people and things move, what the camera does, how light and weather
  change, what is heard. Do not describe again what the first frame shows.
- Call people and things by the shortest words that tell them apart: "the woman", "the left dog".
- What was asked for wins: where it goes against the picture, tell how the one becomes the other.
- If no movement of the camera was asked for, say that the camera stays fixed.
- At most 80 words.
""".strip()

AGAIN = """
Your last answer was:
{answer}

It breaks these rules:
{faults}
Write the whole description again so that none is broken. Answer with the description alone.
""".strip()


def system_prompt(kind: str, *, sees: bool) -> str:
    """Return what the model is told.

    kind: text, or image for prompts with a first picture. sees: it is shown that picture.
    """
    if kind == "image":
        return IMAGE.format(seen=", and the picture" if sees else ", but not the picture")
    return TEXT


def asked_text(prompt: str) -> str:
    """Return a prompt as the model is given it."""
    return f"The description: {prompt.strip()}"


def asked_again(prompt: str, answer: str, faults: Sequence[Finding | str]) -> str:
    """Return a prompt as the model is given it after an answer with faults."""
    told = [fault if isinstance(fault, str) else fault.why for fault in faults]
    return f"{asked_text(prompt)}\n\n" + AGAIN.format(
        answer=answer, faults="\n".join(f"- {one}" for one in told)
    )
