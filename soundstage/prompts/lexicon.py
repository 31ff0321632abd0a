"""Words of film that the rules look for, as patterns over a prompt without its quotations.

Lists of words are written as words; `any_of` makes a pattern of them. Patterns do not mind case.
"""

from __future__ import annotations

import re

from soundstage.prompts.verbs import progressive, regular_past, third_person


def any_of(words: str, *more: str) -> re.Pattern[str]:
    """Return the pattern of any of the words of a list. more: patterns besides."""
    plain = sorted(map(re.escape, words.split()), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join([*more, *plain])})\b", re.IGNORECASE)


# --- camera -------------------------------------------------------------------------------------------

# "A frying pan", "her head tilts" and "train tracks" are no camera; whoever writes "camera" means one.
CAMERA = any_of(
    """camera close-up close-ups closeup closeups steadicam gimbal handheld hand-held pov viewfinder tripod
    two-shot dolly dollies dollying zoom zooms zooming crane-shot establishing-shot locked-off macro panning
    drone-shot push-in pull-back push-ins long-take""",
    r"close[ -]ups?",
    r"(?:push|pull|dolly|zoom)(?:es|s|ing)? (?:slowly |gently )?(?:in|out|back|forward|closer|away)",
    r"(?<!frying )(?<!hot )pans?(?= (?:left|right|across|slowly|up|down|over|along|to|with|from)\b)",
    r"(?:slow|whip|quick|smooth|gentle) pan",
    r"tilts? (?:up|down|upward|downward|shot)\w*",
    r"tracking|tracks (?:behind|alongside|beside|forward|backward|in|left|right|(?:him|her|them|it)\b)",
    r"(?:wide|medium|long|full|tight|static|master|establishing|tracking|aerial|overhead|drone|crane|macro|"
    r"dolly|orbit|reverse|single|low-angle|high-angle|two|hero|insert|profile|pov|point-of-view)[ -]shot",
    r"(?:static|locked|fixed|still) (?:frame|framing|wide|medium|view)",
    r"(?:extreme |medium |very )?(?:wide|long|medium|tight) (?:on|view|framing|close)",
    r"(?:wide|low|high|dutch|eye[ -]level)[ -]angle\w*",
    r"point[ -]of[ -]view|bird's[ -]eye|over[ -]the[ -]shoulder|rack focus|aerial view|fisheye|gopro",
    r"bodycam|dashcam",
    r"(?:shot|filmed|captured|framed|seen|viewed) (?:in|on|from|at|with|through|by|from above|head-on)",
    r"orbit(?:s|ing)? (?:around |shot)",
    r"(?:a|the|one|this|single|continuous|slow) shot",
    r"the drone (?:flies|rises|follows|glides|descends|circles|drifts|pulls|moves)",
)
# Speed, angle, size of the picture or lens.
CAMERA_DETAIL = any_of(
    """slow slowly gently gradually steadily smooth smoothly quick quickly fast rapid rapidly swiftly static
    still fixed locked locked-off motionless handheld hand-held wide medium tight close close-up close-ups
    closeup macro overhead aerial shallow steady lateral sideways parallel unbroken continuous""",
    r"low[ -]angle|high[ -]angle|dutch|eye[ -]level",
    r"(?:shoulder|waist|ground|knee|hip|chest)-(?:height|level)",
    r"[\w-]+ (?:level|height|speed)|low|high|close[ -]ups?",
    r"from (?:above|below|behind|across|the side|a distance|the front)|depth of field|\d+ ?mm",
    r"does not move|holds|bird's[ -]eye|point[ -]of[ -]view|over[ -]the[ -]shoulder|at (?:a )?low|whip",
)

# --- light, air, style --------------------------------------------------------------------------------

ATMOSPHERE = any_of(
    """
    light lights lit lighting sunlight sunlit moonlight moonlit candlelight candlelit lamplight lamplit
    daylight firelight starlight backlit sidelit sun sunny sunrise sunset dawn dusk twilight noon midday
    midnight night nighttime morning evening afternoon overcast shadow shadows shade shaded silhouette
    silhouetted glow glows glowing gleam gleams shimmer shimmers glint glints sparkle sparkles flicker
    flickers flickering neon lantern lanterns lamp lamps candle candles torch torches chandelier
    spotlight spotlights headlights bulb bulbs fluorescent tungsten bright dim dimly dark darkness
    gloomy hazy haze fog foggy mist misty smoke smoky steam steamy dust dusty rain rainy drizzle snow
    snowy snowfall wind windy breeze storm stormy thunder lightning cloud clouds cloudy sky skies air
    humid frost frosty ice icy wet damp puddle puddles reflections reflection texture textures textured
    grainy glossy matte rusty weathered worn cracked wooden velvet marble concrete cobblestones gravel
    moss pollen embers sparks ash sand ripples meadow underwater bokeh silvery amber golden pastel murky
    translucent iridescent sunbeam sunbeams rays
    """,
    r"golden hour|blue hour|soft focus|high[ -]contrast|low[ -]key|high[ -]key|rim[ -]li\w+",
)
GENRE = any_of(
    """noir documentary cinematic film-noir thriller horror western sci-fi fantasy romance romantic comedy
    drama dramatic anime animation animated cartoon watercolor claymation stop-motion puppet editorial vintage
    retro cyberpunk steampunk photorealistic photoreal realistic surreal surrealist newsreel vlog sitcom
    commercial advertisement mockumentary musical epic gothic fairy-tale storybook minimalist impressionist
    expressionist monochrome sepia technicolor anamorphic vhs super-8 super8 handycam arthouse telenovela
    dystopian post-apocalyptic futuristic spaceship starship spacecraft spacesuit astronaut robot android
    alien dragon wizard knight castle saloon cowboy detective samurai ninja zombie vampire pirate medieval
    victorian baroque 1920s 1930s 1940s 1950s 1960s 1970s 1980s 1990s""",
    r"film grain|grainy film|16 ?mm|35 ?mm|70 ?mm|super ?8|black[ -]and[ -]white|style\b:?|stylized",
    r"fashion (?:film|editorial)",
    r"science fiction|music video|found footage|home video|home movie|pixel art|3d (?:render|animat\w+)",
    r"hand[ -]drawn",
    r"slow motion|time[ -]lapse|news (?:report|broadcast|studio)|nature film|feature film",
    r"period (?:film|drama)",
    r"live[ -]action|stop[ -]motion|deep space|reactor core|cargo vessel|short film|talk show|cooking show",
    r"road movie|space opera|silent film|oil painting|ink (?:drawing|wash)|papercut|paper[ -]cut\w*",
)

# --- people -------------------------------------------------------------------------------------------

_PERSONS = """
    man woman boy girl child kid toddler baby teenager teen person people men women children boys girls
    kids couple crowd friend friends stranger figure father mother dad mom son daughter brother sister
    grandmother grandfather grandma grandpa husband wife bride groom family lady gentleman guy fellow
    adult adults elder actor actress artist painter sculptor musician singer dancer ballerina pianist
    violinist guitarist drummer cellist chef cook baker waiter waitress barista bartender doctor nurse
    surgeon scientist researcher engineer teacher professor student pupil reporter journalist anchor
    presenter host politician president king queen prince princess emperor knight soldier officer
    policeman policewoman detective spy thief guard sailor captain pilot astronaut driver cyclist biker
    runner skater surfer swimmer climber hiker skier boxer wrestler athlete player goalkeeper coach
    fisherman fisherwoman farmer gardener shepherd hunter carpenter blacksmith potter tailor weaver
    mechanic welder worker builder miner firefighter librarian clerk merchant vendor shopkeeper
    businessman businesswoman lawyer judge secretary manager ceo inventor explorer wizard witch warrior
    samurai monk priest nun dancer clown magician protagonist hero heroine villain leader passenger
    tourist traveler traveller neighbor neighbour customer writer poet author photographer
    cinematographer model speaker narrator interviewer rider jockey vampire pirate cowboy cowgirl
    conductor barber hairdresser watchmaker beekeeper locksmith mathematician philosopher genius
    celebrity
    """
PERSON = any_of(_PERSONS)
PRONOUN = any_of("he she they him her them his their i we you who")
ANIMAL = any_of(
    """
    dog puppy cat kitten horse pony cow bull goat sheep lamb pig rooster hen chicken duck goose bird owl
    eagle hawk crow raven gull parrot penguin fox wolf bear deer stag rabbit hare squirrel mouse rat
    lion tiger leopard elephant giraffe monkey gorilla whale dolphin shark fish octopus turtle tortoise
    snake lizard frog bee butterfly spider dragon robot android alien creature monster ghost puppet
    """
)
TRAIT = any_of(
    """kind clever famous intelligent wise brave courageous generous evil talented successful wealthy rich
    charming charismatic honest loyal beloved legendary ambitious witty cunning arrogant humble popular smart
    ruthless cruel caring loving compassionate renowned notorious skilled experienced gifted brilliant
    good-hearted kind-hearted heroic virtuous selfish stubborn creative passionate hardworking hard-working
    trustworthy respected influential powerful important mysterious adventurous optimistic pessimistic
    sophisticated educated greedy lazy noble patient thoughtful introverted extroverted friendly"""
)
# Names of feelings, with what a body does that has them: a verb, and what follows it.
EMOTIONS: dict[str, tuple[str, str]] = {
    "sad unhappy sorrowful melancholy heartbroken depressed miserable upset devastated grieving gloomy": (
        *("lower", "the head as a tear runs down the cheek"),
    ),
    "nervous anxious worried tense uneasy restless stressed": (
        *("glance", "over one shoulder, fingers tightening"),
    ),
    "happy joyful glad cheerful delighted elated ecstatic overjoyed content pleased thrilled joyous": (
        *("smile", "slowly, eyes creasing at the corners"),
    ),
    "angry furious mad enraged annoyed irritated frustrated outraged": ("clench", "the jaw and both fists"),
    "confident proud determined triumphant fearless self-assured": ("straighten", "the back, chin lifted"),
    "afraid scared frightened terrified fearful horrified panicked": ("step", "back, eyes wide"),
    "surprised shocked astonished amazed stunned startled": ("stop", "mid-step, eyebrows lifted"),
    "tired exhausted weary sleepy": ("rub", "the neck, eyelids drooping"),
    "lonely bored jealous ashamed embarrassed guilty confused curious hopeful desperate disappointed "
    "excited relieved grateful nostalgic suspicious conflicted overwhelmed lovesick": (
        *("tilt", "the head and look away"),
    ),
}
EMOTION = any_of(" ".join(EMOTIONS))
FEELING_NOUN = any_of(
    """sadness grief sorrow happiness joy anger rage fear anxiety dread hope love jealousy excitement pride
    loneliness despair nostalgia regret guilt shame confidence determination melancholy relief longing"""
)
BODY = any_of(
    """
    eye eyes eyebrow eyebrows brow brows lip lips mouth cheek cheeks chin jaw head hair hand hands
    finger fingers fingertips thumb wrist arm arms elbow shoulder shoulders neck back chest knee knees
    leg legs foot feet toe toes heel face nose ear ears breath breathing gaze tail paw paws wing wings
    beak hoof hooves mane fur whiskers palm palms fist fists tongue teeth eyelids lashes nostrils
    muscles
    """
)
MATERIAL = any_of(
    """
    wood metal steel iron glass stone brick fabric silk wool leather paper water wave waves rain snow
    sand mud dust smoke steam fog mist fire flame flames ember embers sparks grass leaf leaves petals
    branches feather feathers dough clay paint ink milk coffee tea wine bread knife cup mug glass bowl
    door window curtain curtains rope chain wheel wheels gear gears key coin sail sails boat oar oars
    hammer string strings drum keys blade sleeve sleeves coat dress skirt scarf hat umbrella book page
    pages letter candle lantern match needle thread ball cube ring star pyramid sphere cone table chair
    floor bicycle bike car tires tyres train reeds ripples pebbles gravel cobblestones droplets drops
    raindrops snowflakes foam ice rock rocks boots shoes gloves
    """
)

# --- time, place, sound -------------------------------------------------------------------------------

CONNECTOR = any_of(
    """as then while when after before until once meanwhile next finally afterwards first second last later
    simultaneously suddenly eventually starts begins start begin moments""",
    r"at the \w+[- ]second mark|after \w+ seconds?|and then|transitions? to|a beat|in (?:turn|one motion)",
    r"at (?:last|the same time|each|every)|each time|with (?:each|every)|in the same (?:moment|instant)",
)
ANCHOR = any_of(
    """left right foreground background behind beside between opposite center centre middle midground
    background across facing above below under near against""",
    r"in front of|next to|side by side|back to back|face to face|screen[ -](?:left|right)",
    r"frame[ -](?:left|right)|at the (?:front|back|rear|head|foot|end|edge)",
)
_SOUND_VERBS = """
    sing rumble hum buzz click clatter clink creak crackle hiss roar rustle patter splash drip thud
    thump bang knock echo howl whistle chirp squeak squeal screech honk wail blare cheer laugh giggle
    chatter sigh gasp sob cough bark meow purr neigh bleat quack caw squawk whir whirr tick crunch
    sizzle bubble gurgle snap pop crash boom drone throb beep snore hoot murmur swish whoosh scrape
    rattle clang toll slam clap stomp croak trill babble slosh hammer tap clack clop whine groan growl
    snarl chime ring jingle tinkle strum plink plunk pluck scratch rasp grind grate crack thunder blast
    puff pant swell scream shriek whisper shout say ask reply speak mutter hear pound drum rap ping
    twang warble coo peep
    """
SOUND = any_of(
    " ".join(
        form
        for verb in _SOUND_VERBS.split()
        for form in (verb, third_person(verb), progressive(verb), regular_past(verb))
    )
    + """
    sound sounds heard silence silent audio noise voice voices song music melody tune piano violin
    violins guitar cello drums drumbeat trumpet flute organ choir bell bells siren sirens horn engine
    engines applause laughter footsteps ambience ambient soundscape narration orchestra band jazz
    ukulele accordion harp bass surf birdsong chatter din hush breathing heartbeat feedback chord chords
    baritone
    """,
    r"voice[ -]?over|gulls? (?:call|cry)\w*|cicadas?|crickets?|calls? (?:out|back)|radio static|in silence",
)
VAGUE_SOUND = re.compile(
    r"\b(?:ambient|background|nice|good|appropriate|realistic|matching|fitting|suitable|cool|some|various)"
    r" (?:sounds?|noises?|audio|music|sound effects)\b(?! (?:of|from)\b)"
    r"|\bsound effects\b(?! of)|\b(?:with|has|have) (?:good |great |nice )?(?:sound|audio)\b(?! of)",
    re.IGNORECASE,
)
SPEECH_VERB = any_of(
    """
    say says said saying ask asks asked asking reply replies replied answer answers answered whisper
    whispers whispered whispering shout shouts shouted shouting yell yells yelled yelling speak speaks
    spoke speaking talk talks talking tell tells told telling announce announces murmur murmurs mutter
    mutters mumble mumbles call calls calling cry cries exclaim exclaims add adds continue continues
    sing sings singing narrate narrates narration voice voices voiceover voice-over respond responds
    greet greets declare declares explain explains read reads recite recites chant chants scream screams
    laugh laughs sigh sighs groan groans growl growls snap snaps hiss hisses utter utters order orders
    beg begs joke jokes counter counters interrupt interrupts warn warns repeat repeats bark barks rasp
    rasps croak croaks intone intones begin begins finish finishes line dialogue speech words question
    phrase mouths bellow bellows stammer stammers plead pleads remark remarks
    """,
)
WRITING = any_of(
    """sign signs reading label labeled labelled titled title text banner poster logo written writing writes
    lettering letters spelling spells spelled word inscription engraved printed caption headline neon screen
    displays tattoo tattooed note billboard plaque display spelled chalkboard blackboard newspaper scoreboard
    t-shirt shirt reads called named nicknamed painted painting graffiti logo subtitle subtitles book cover"""
)
VOICE = any_of(
    """
    voice voices accent whisper whispers whispered whispering shout shouts shouting shouted yell yells
    softly quietly loudly calmly gently slowly hoarsely breathlessly flatly sharply warmly coldly
    brightly cheerfully firmly murmurs murmur mutters mumbles screams sings chants calls cries exclaims
    narrates narration tone baritone tenor alto soprano raspy husky gravelly deadpan monotone low hushed
    voiceover voice-over growls hisses barks english french spanish german italian portuguese mandarin
    chinese japanese korean arabic hindi russian scottish irish british american australian southern
    parisian bellows stammers croaks rasps intones laughing smiling tired bright warm calm crisp clipped
    energetic trembling shaky booming
    """,
)
BEAT = any_of(
    """
    beat pause pauses paused silence moment seconds then before after while when until as waits nods
    turns looks smiles leans breathes exhales inhales swallows blinks shrugs sighs laughs glances steps
    lowers raises lifts replies answers responds interrupts
    """,
)
