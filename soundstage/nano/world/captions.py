"""Write captions of a scene from the scene alone.

A caption is one paragraph in the present tense: subjects, actions, places and times, then camera and sound.
Every seed words the same scene another way: synonyms, order of clauses, kind of sentence, and the facts that
are left out. A full caption leaves nothing out and is used to evaluate. In the others an unstated camera is
static, an unstated delay is usually none, and any other unstated fact is open.

No background is described with a word of COLORS, so that a colour in a caption belongs to a subject.
"""

from __future__ import annotations

import numpy as np

from soundstage.nano.world.scene import Scene, Subject

NEGATIVE = (
    "blurry, flickering, noise, smeared colors, deformed shapes, extra objects, distorted sound, crackle"
)

SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "ball", "sphere", "orb"),
    "cube": ("cube", "cube", "box", "block"),
    "pyramid": ("pyramid", "pyramid", "cone"),
    "star": ("star", "star", "five-pointed star"),
    "ring": ("ring", "ring", "donut", "hoop"),
}
COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "bright red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "bright yellow"),
    "green": ("green",),
    "cyan": ("cyan", "cyan", "turquoise"),
    "blue": ("blue", "blue", "blue", "deep blue"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink",),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium-sized", "medium", "mid-sized"),
    "large": ("large", "large", "big", "huge"),
}
SIDE_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left", "on the left side", "at the left of the frame"),
    "right": ("on the right", "on the right", "on the right side", "at the right of the frame"),
    "center": ("in the middle", "in the center", "at the center of the frame"),
}
COUNT_WORDS: dict[int, tuple[str, ...]] = {
    1: ("once", "one time"),
    2: ("twice", "two times"),
    3: ("three times",),
}
DELAY_WORDS: dict[float, tuple[str, ...]] = {
    0.5: ("half a second", "0.5 seconds"),
    1.0: ("one second", "a second", "1 second"),
    1.5: ("one and a half seconds", "1.5 seconds"),
}
# {n}: count words. {to}, {start}: sides that a direction moves to and from. {turn}: sense of rotation.
ACTION_WORDS: dict[str, tuple[str, ...]] = {
    "bounce": (
        "drops onto {floor}, bouncing {n}",
        "falls onto {floor} and bounces {n}",
        "drops and bounces {n}",
        "falls from above and bounces {n} on {floor}",
        "bounces {n}",
        "bounces {n} on {floor}",
        "drops to {floor} and hits it {n}",
    ),
    "roll": (
        "rolls from {start} to {to}",
        "rolls across {floor} from {start} to {to}",
        "rolls to the {to}",
        "rolls along {floor} to the {to}",
        "rolls toward the {to}",
    ),
    "slide": (
        "slides from {start} to {to}",
        "slides across {floor} to the {to} and comes to rest",
        "slides to the {to} and slows to a stop",
        "glides over {floor} from {start} to {to}",
        "slides toward the {to}",
    ),
    "orbit": (
        "moves {turn} in a circle",
        "circles {turn} in the air",
        "flies {turn} in a circle",
        "orbits {turn}",
        "circles {turn}",
    ),
    "swing": (
        "swings on a string like a pendulum, starting from the {to}",
        "swings back and forth on a string from the {to}",
        "hangs on a string and swings, first from the {to}",
        "swings like a pendulum, starting from the {to}",
    ),
    "grow": ("grows", "grows larger", "gets bigger and bigger", "slowly grows", "swells up", "expands"),
    "blink": ("blinks {n}", "lights up {n}", "flashes {n}", "glows {n}", "blinks brightly {n}"),
    "rest": (
        "rests on {floor}",
        "sits still",
        "stands still on {floor}",
        "stays motionless",
        "lies still on {floor}",
        "does not move",
    ),
}
TURN_WORDS: dict[int, tuple[str, ...]] = {1: ("clockwise",), -1: ("counterclockwise", "anticlockwise")}
FLOOR_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("the grass", "the ground"),
    "night": ("the ground",),
    "fog": ("the ground",),
    "wood": ("a wooden floor", "the wooden floor", "a parquet floor", "wooden boards"),
    "grid": ("the floor", "the tiles"),
    "gradient": ("the floor", "the ground"),
}
# As an adverbial ("In thick fog, ...") and as a noun ("The background is ...").
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("on a sunny day in a meadow", "in a meadow on a clear day", "outdoors in bright sunlight"),
    "night": ("at night under the stars", "under a starry night sky", "on a clear night under the moon"),
    "fog": ("in thick fog", "in a foggy landscape", "in pale mist"),
    "wood": (
        "in a room with a wooden floor",
        "indoors on a parquet floor",
        "on wooden boards indoors",
    ),
    "grid": ("in a tiled room", "in a room with a grid on the walls", "in a room lined with a grid"),
    "gradient": ("in front of a soft gradient", "against a plain gradient backdrop", "in soft dusky light"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("a sunny meadow under a clear sky", "a grassy field in daylight"),
    "night": ("a night sky with stars and a moon", "a dark starry night"),
    "fog": ("thick fog over faint hills", "a pale misty landscape"),
    "wood": ("a warm room with a wooden floor", "a bare wall and a parquet floor"),
    "grid": ("a tiled room", "a pale room with grid lines"),
    "gradient": ("a smooth gradient", "a dusky gradient backdrop"),
}
CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "static": ("is static", "stays still", "does not move", "is fixed", "holds still"),
    "push in": ("pushes in", "moves closer", "zooms in", "dollies in", "moves forward"),
    "pull out": ("pulls out", "pulls back", "zooms out", "moves away", "moves backward"),
    "pan left": ("pans left", "pans to the left", "moves to the left"),
    "pan right": ("pans right", "pans to the right", "moves to the right"),
    "tilt up": ("tilts up", "tilts upward"),
    "tilt down": ("tilts down", "tilts downward"),
}
STATIC_SENTENCES = ("Static camera", "A static shot", "Fixed camera", "A locked-off shot")
# Sounds of what is seen, by action or interaction; those not listed are silent.
SOUND_WORDS: dict[str, tuple[str, ...]] = {
    "bounce": ("a thud with each bounce", "a dull thud at every impact", "a thud on each landing"),
    "roll": ("a low rumble of rolling", "a rumble as it rolls", "the rumble of rolling"),
    "blink": ("a chime at each blink", "a bright chime with every flash", "a chime each time it lights up"),
    "collide": ("a sharp click as they hit", "a click at the impact", "a hard click when they meet"),
    "handover": (
        "a soft click as the ball lands",
        "a click when the ball arrives",
        "a click at the end",
    ),
}
AMBIENCE_WORDS: dict[str, tuple[str, ...]] = {
    "rain": ("rain", "steady rain", "the patter of rain"),
    "wind": ("wind", "a soft wind", "the rush of wind"),
    "hum": ("a low hum", "a steady hum", "a deep hum"),
}
UNSEEN_WORDS = ("in the background", "off screen", "somewhere out of view")
SILENT_SENTENCES = ("There is no sound", "The shot is silent", "Silence", "It is completely silent")
NOTHING_ELSE = ("There is no other sound", "Nothing else is heard", "No other sound")
VOICE_SENTENCES = ("A {voice} voice speaks", "A {voice} voice is speaking", "A {voice} voice talks")


def caption(scene: Scene, rng_seed: int | None = None, *, full: bool = False) -> str:
    """Return a caption of a scene; the same for the same arguments.

    rng_seed: decides the wording; the scene's own seed if None. full: state every fact.
    """
    seed = scene.seed if rng_seed is None else rng_seed
    return _Writer(scene, np.random.default_rng([seed, 41]), full).paragraph()


class _Writer:
    """One wording of one scene. `detail` is the share of optional facts that are stated."""

    def __init__(self, scene: Scene, rng: np.random.Generator, full: bool) -> None:
        self.scene, self.rng, self.full = scene, rng, full
        self.detail = (0.9, 0.9, 0.55, 0.1)[int(rng.integers(4))]
        self.told_background = False

    def one(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def states(self, share: float) -> bool:
        """Return whether this caption states an optional fact."""
        return self.chance(share) or self.full

    # --- paragraph ---------------------------------------------------------------------------------

    def paragraph(self) -> str:
        visual, speech, sound = self._visual(), self._speech(), self._sound()
        if self.chance(0.06):
            colon = self.one(("", ":"))
            visual = [f"[VISUAL]{colon}", *visual]
            sound = [f"[SOUNDS]{colon}", *sound] if sound else []
        return self._cased(" ".join(visual + speech + sound))

    def _cased(self, text: str) -> str:
        """Return some texts as people type them: all in lower case, or without the last full stop."""
        style = self.rng.random()
        if style < 0.06:
            text = text.lower()
        return text.removesuffix(".") if 0.03 < style < 0.1 else text

    def _visual(self) -> list[str]:
        scene, action = self.scene, self._action()
        camera = self._camera()
        background: list[str] = []
        known = self.told_background and self.chance(0.7)
        if not known and self.states(self.detail):
            if self.chance(0.4):
                action = f"{self.one(PLACE_WORDS[scene.background])}, {action}"
            else:
                background = [self._background()]
        if camera and self.chance(0.25) and scene.camera != "static":
            action += f", as the camera {self._camera_verb()}"
            camera = []
        sentences = [_sentence(action), *(background + camera if self.chance(0.7) else camera + background)]
        if background and self.chance(0.25):
            sentences = [background[0]] + [s for s in sentences if s != background[0]]
        return sentences

    def _background(self) -> str:
        noun, place = BACKGROUND_WORDS[self.scene.background], PLACE_WORDS[self.scene.background]
        if self.chance(0.5):
            return _sentence(
                f"{self.one(('the background is', 'the setting is', 'behind is'))} {self.one(noun)}"
            )
        return _sentence(f"{self.one(('the scene is set', 'it happens', 'we are'))} {self.one(place)}")

    # --- subjects ----------------------------------------------------------------------------------

    def _action(self) -> str:
        scene = self.scene
        if scene.interaction == "collide":
            return self._collide()
        if scene.interaction == "handover":
            return self._handover()
        if len(scene.subjects) == 1:
            return self._clause(scene.subjects[0])
        pair = list(scene.subjects)
        if self.chance(0.5):
            pair.reverse()
        first, second = (self._clause(s) for s in pair)
        joint = self.one((". ", ". ", ", while ", ", and ", "; "))
        return first + joint + (_capital(second) if joint == ". " else second)

    def _clause(self, subject: Subject) -> str:
        """Return 'on the left, a small red ball bounces twice', in one of several orders, without a stop."""
        noun, does, place = self._noun(subject), self._does(subject), self._place(subject)
        if subject.delay_s and self.states(0.95):
            delay = self.one(DELAY_WORDS[subject.delay_s])
            if self.chance(0.5):
                where = f" {place}" if place else ""
                return f"after {delay}, {noun}{where} {does}"
            does = self.one(("waits for {t}, then {x}", "holds still for {t} and then {x}")).format(
                t=delay, x=does
            )
        if not place:
            return f"{noun} {does}"
        # A swing names the side it starts from last; a second side after it would be read wrongly.
        order = self.rng.random() * (0.85 if subject.action == "swing" else 1.0)
        if order < 0.45:
            return f"{place}, {noun} {does}"
        if order < 0.75:
            return f"{noun} {place} {does}"
        if order < 0.85:
            return f"there is {noun} {place}. It {does}"
        return f"{noun} {does} {place}"

    def _noun(self, subject: Subject) -> str:
        words = [self.one(COLOR_WORDS[subject.color]), self.one(SHAPE_WORDS[subject.shape])]
        if self.states(0.3 if subject.size == "medium" else 0.55 + 0.4 * self.detail):
            words.insert(0, self.one(SIZE_WORDS[subject.size]))
        return _article(" ".join(words))

    def _place(self, subject: Subject) -> str:
        """Return words for the side of a subject; none for one that crosses the frame."""
        if subject.action in ("roll", "slide"):
            return ""
        usual = 0.2 if subject.side == "center" else 0.97
        return self.one(SIDE_WORDS[subject.side]) if self.states(usual) else ""

    def _does(self, subject: Subject) -> str:
        words = self.one(ACTION_WORDS[subject.action])
        if subject.action == "swing" and not self.states(0.4 + 0.5 * self.detail):
            words = self.one(("swings", "swings on a string", "swings back and forth like a pendulum"))
        if subject.action == "orbit" and not self.states(0.4 + 0.5 * self.detail):
            words = self.one(("moves in a circle", "circles in the air", "flies in circles"))
        to, start = ("right", "left") if subject.direction > 0 else ("left", "right")
        if "{floor}" in words and self.scene.background == "wood":
            self.told_background = True
        return words.format(
            floor=self.one(FLOOR_WORDS[self.scene.background]),
            n=self.one(COUNT_WORDS[subject.count]) if subject.count else "",
            turn=self.one(TURN_WORDS[subject.direction]),
            to=to,
            start=start,
        )

    def _collide(self) -> str:
        pair = list(self.scene.subjects)
        if self.chance(0.5):
            pair.reverse()
        a, b = (self._noun(s) for s in pair)
        x, y = (s.side for s in pair)
        form = self.one(
            (
                "{a} from the {x} and {b} from the {y} collide and are thrown back",
                "from the {x} comes {a}, from the {y} {b}; they collide and bounce apart",
                "{a} moves in from the {x}, {b} from the {y}, and they collide and are thrown back",
                "{a} comes from the {x} and crashes into {b} coming from the {y}; both bounce apart",
                "{a} on the {x} and {b} on the {y} rush toward each other and collide",
            )
        )
        return form.format(a=a, b=b, x=x, y=y)

    def _handover(self) -> str:
        giver, taker = self.scene.subjects
        assert self.scene.gift_color is not None
        color = self.one(COLOR_WORDS[self.scene.gift_color])
        gift = self.one(("{c} ball", "small {c} ball", "little {c} ball")).format(c=color)
        form = self.one(
            (
                "{a} on the {x} {hands} {gift} to {b} on the {y}",
                "on the {x}, {a} {hands} {gift} to {b} on the {y}",
                "on the {y}, {b} gets {gift} from {a} on the {x}",
                "there is {b} on the {y}. From the {x}, {a} {hands} it {gift}",
            )
        )
        return form.format(
            a=self._noun(giver),
            b=self._noun(taker),
            gift=_article(gift),
            hands=self.one(("hands", "hands", "passes", "throws", "tosses")),
            x=giver.side,
            y=taker.side,
        )

    # --- camera and sound --------------------------------------------------------------------------

    def _camera(self) -> list[str]:
        """Return a sentence about the camera, or none where it is static and that is left out."""
        if self.scene.camera == "static":
            if not self.states(0.7 * self.detail):
                return []
            if self.chance(0.4):
                return [_sentence(self.one(STATIC_SENTENCES))]
        return [_sentence(f"the camera {self._camera_verb()}")]

    def _camera_verb(self) -> str:
        verb = self.one(CAMERA_WORDS[self.scene.camera])
        return f"slowly {verb}" if self.scene.camera != "static" and self.chance(0.4) else verb

    def _sound(self) -> list[str]:
        """Return sentences about all sound but the voice."""
        scene = self.scene
        if not self.states(self.detail):
            return [self._ambience()] if scene.ambience != "silence" and self.chance(0.7) else []
        actions = [scene.interaction] if scene.interaction else [s.action for s in scene.subjects]
        heard = [self.one(SOUND_WORDS[a]) for a in dict.fromkeys(actions) if a in SOUND_WORDS]
        sentences = []
        if heard:
            lead = self.one(("there is", "we hear", "the sound is", "sound:"))
            sentences.append(_sentence(f"{lead} {' and '.join(heard)}"))
        if scene.ambience != "silence":
            sentences.append(self._ambience())
            if self.chance(0.3):
                sentences.reverse()
        elif heard or scene.voice:
            sentences += [_sentence(self.one(NOTHING_ELSE))] if self.states(0.5) else []
        else:
            sentences.append(_sentence(self.one(SILENT_SENTENCES)))
        return sentences

    def _ambience(self) -> str:
        words, where = self.one(AMBIENCE_WORDS[self.scene.ambience]), self.one(UNSEEN_WORDS)
        form = self.one(("{w} {where}", "there is {w} {where}", "{w} is heard", "we hear {w}"))
        return _sentence(form.format(w=words, where=where))

    def _speech(self) -> list[str]:
        if self.scene.voice is None:
            return []
        return [
            self.one(("[SPEECH]", "[SPEECH]:")),
            _sentence(self.one(VOICE_SENTENCES).format(voice=self.scene.voice)),
        ]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + "."


def names(scene: Scene) -> str:
    """Return the subjects without their actions, "A small red ball.", and whether the camera is static."""
    subjects = " and ".join(f"a {s.size} {s.color} {s.shape}" for s in scene.subjects)
    camera = "" if scene.camera != "static" else " The camera is static."
    return _sentence(subjects) + camera
