"""Forms of English verbs, as far as the rules of prompts need them: what is done, when, and by how many.

Verbs of films are listed by what they tell: DEEDS are done by somebody, one after the other; HAPPENINGS go on
by themselves; STATES hold. A form that no list has is taken for a verb only where its place shows it.
"""

from __future__ import annotations

from functools import cache


def word_set(text: str) -> frozenset[str]:
    """Return the words of a list."""
    return frozenset(text.split())


DEEDS = word_set(
    """
    walk run jump leap sprint jog stroll march step stride wander stumble trip climb crawl skip hop
    dance spin twirl turn pivot bow kneel crouch duck dive swim row paddle ride drive steer pedal fly
    throw toss catch kick hit strike punch slap swing lift raise lower pick pluck grab grasp seize grip
    reach pull push drag haul carry hand give pass offer take receive accept drop place put set lay hang
    hook tie untie knot wrap unwrap fold unfold open close shut bring lock unlock slam knock ring press
    tap type write draw sketch paint carve cut slice chop peel stir mix pour whisk knead roll bake fry
    grill taste sip drink eat bite chew swallow smoke light ignite extinguish blow wipe clean wash rinse
    scrub sweep dust polish brush comb braid shave dress undress zip button unbutton dig plant water
    rake hammer saw drill screw weld sew knit weave pack unpack load unload fill empty enter leave exit
    arrive depart return cross approach follow chase flee escape hide emerge vanish disappear appear
    board mount dismount land launch fire aim shoot reload attack defend block dodge fight wrestle hug
    embrace kiss wave salute nod shake point gesture shrug smile grin laugh cry weep frown wink blink
    clap cheer whisper shout say speak sing hum whistle call ask reply answer announce read study
    examine inspect check turn flip scroll swipe dial start stop begin continue play strum bow pluck
    conduct perform juggle balance build assemble break smash crush tear rip burn melt dissolve bounce
    slide glide skate surf ski splash plunge slip sit stand rise stoop bend lean stretch yawn sneeze
    cough sigh inhale exhale breathe tilt lift tighten loosen squeeze rub scratch stroke pet feed hunt
    pounce leap gallop trot graze peck bark growl howl meow purr circle orbit cross meet greet part join
    dry pause hesitate wait fall collapse tumble topple crash collide explode shatter adjust straighten
    tug twist crank switch flick toggle sprinkle scatter spread lift unroll unfurl hoist drop scoop
    ladle plate serve deliver post hurl shove nudge poke stamp stomp tiptoe sneak creep make go come
    bring use work prepare cook film record prowl chat talk tell argue celebrate practice explore
    compete train type repair fix measure count sort collect gather wander patrol escort guide lead
    teach learn glance peer search look watch point enter pack sell buy trade shop order pay skate
    snowboard row sail travel lurch stagger charge rush hurry race dash zoom speed accelerate brake park
    drift reverse lift land
    """
)
HAPPENINGS = word_set(
    """
    glow shine shimmer flicker gleam glint sparkle flash blink fade brighten darken dim rise drift float
    flow stream trickle drip fall rain snow hail swirl curl billow ripple lap roll break crash foam sway
    rustle flutter tremble shiver quiver shake vibrate pulse throb hum buzz crackle hiss sizzle bubble
    boil simmer steam smoke burn echo ring chime rumble roar creak clatter rattle murmur chirp patter
    blow gust gather spread fill cover stretch cast reflect scatter settle sink melt freeze thaw bloom
    grow open ripen tick spin turn whirl loom soften diffuse filter spill pour seep wash bathe pool
    trail linger hover hang blend mingle catch glisten smolder ooze waft set splash
    """
)
STATES = word_set(
    """
    be have wear hold stand sit lie rest lean kneel wait stay remain keep look watch gaze stare see face
    seem appear feel know think want love live belong contain show hang perch line surround frame rest
    sleep listen hear carry dominate stretch tower overlook fill cover
    """
)
VERBS = DEEDS | HAPPENINGS | STATES
# Past forms that do not end in -ed, by the verb. Forms that are also the present's are left out.
PAST = {
    "ran": "run", "leapt": "leap", "swam": "swim", "rode": "ride", "drove": "drive", "flew": "fly",
    "threw": "throw", "caught": "catch", "struck": "strike", "swung": "swing", "gave": "give", "took": "take",
    "hung": "hang", "laid": "lay", "shook": "shake", "wrote": "write", "drew": "draw", "stood": "stand",
    "sat": "sit", "rose": "rise", "bent": "bend", "fell": "fall", "fled": "flee", "hid": "hide",
    "shot": "shoot",
    "fought": "fight", "wept": "weep", "said": "say", "spoke": "speak", "sang": "sing", "rang": "ring",
    "began": "begin", "broke": "break", "tore": "tear", "built": "build", "slid": "slide", "stole": "steal",
    "met": "meet", "fed": "feed", "left": "leave", "drank": "drink", "ate": "eat", "blew": "blow",
    "swept": "sweep", "dug": "dig", "lit": "light", "shone": "shine", "held": "hold", "wore": "wear",
    "saw": "see", "knew": "know", "thought": "think", "felt": "feel", "kept": "keep", "heard": "hear",
    "grew": "grow", "froze": "freeze", "sank": "sink", "came": "come", "went": "go", "made": "make",
    "told": "tell", "found": "find", "brought": "bring", "spun": "spin", "lost": "lose", "won": "win",
    "crept": "creep", "slept": "sleep", "knelt": "kneel", "became": "become", "led": "lead",
}  # fmt: skip
# They are nouns, adjectives or participles more often than verbs of the past.
UNSURE_PAST = word_set("left lit shot saw found made lost lead held built led felt rose bent hung spun kept")
_IRREGULAR = {"be": ("is", "being"), "have": ("has", "having"), "do": ("does", "doing"),
              "go": ("goes", "going"), "lie": ("lies", "lying"), "tie": ("ties", "tying"),
              "untie": ("unties", "untying"),
              "die": ("dies", "dying")}  # fmt: skip
_DOUBLED = word_set(
    """
    run step jog trip skip hop spin swim hit slap grab drag put set cut chop stir sip knit sit stop rip
    plan begin hug nod shrug grin flip swap tap zip strum slip dig trot drop pet rub tug scrub slam clap
    hum drip let get unzip unplug snap thud throb pop rap sob plug wrap unwrap pin pat dip win stamp
    """
) - {"stamp"}


def third_person(verb: str) -> str:
    """Return "walks" for "walk"."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb][0]
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb.endswith("y") and verb[-2:-1] not in "aeiou" else f"{verb}s"


def progressive(verb: str) -> str:
    """Return "walking" for "walk"."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb][1]
    if verb in _DOUBLED:
        return f"{verb}{verb[-1]}ing"
    return f"{verb[:-1]}ing" if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) else f"{verb}ing"


def regular_past(verb: str) -> str:
    """Return "walked" for "walk"."""
    if verb in _DOUBLED:
        return f"{verb}{verb[-1]}ed"
    if verb.endswith("e"):
        return f"{verb}d"
    return f"{verb[:-1]}ied" if verb.endswith("y") and verb[-2:-1] not in "aeiou" else f"{verb}ed"


@cache
def _bases() -> dict[str, dict[str, str]]:
    """Return for each form the verbs by their forms."""
    return {
        "third": {third_person(verb): verb for verb in VERBS},
        "ing": {progressive(verb): verb for verb in VERBS},
        "past": {**{regular_past(verb): verb for verb in VERBS}, **PAST},
    }


def base_of_third(form: str) -> str | None:
    """Return "walk" for "walks", None for a word that is no such form of a known verb."""
    return _bases()["third"].get(form)


def base_of_past(form: str) -> str | None:
    """Return "walk" for "walked", "run" for "ran", None for a word that is no past form of a known verb."""
    return _bases()["past"].get(form)


def base_of_progressive(form: str) -> str | None:
    """Return "walk" for "walking", None for a word that is no such form of a known verb."""
    return _bases()["ing"].get(form)


def present_of(verb: str, *, many: bool) -> str:
    """Return the simple present of a verb. many: its subject is a plural."""
    if not many:
        return third_person(verb)
    return "are" if verb == "be" else verb
