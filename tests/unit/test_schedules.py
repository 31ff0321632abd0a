"""Sigma lists against the published values."""

import pytest

from soundstage.errors import RequestError
from soundstage.sampling import schedules

LTX2_30 = """1, .994957, .989603, .983908, .97784, .971358, .964421, .956978, .948972, .940336, .930994,
.920854, .90981, .897735, .884479, .869858, .853651, .835584, .815319, .792427, .766363, .736418, .701656,
.660813, .612141, .553148, .480164, .387541, .26612, .1, 0"""
LTX2_HQ = """1, .993491, .986015, .97734, .967151, .955015, .940314, .92214, .899096, .868923, .827707,
.768028, .673897, .503378, .1, 0"""
LTX2_20 = """1, .991467, .982119, .971835, .960465, .947829, .933702, .917805, .899781, .879175, .855387,
.82762, .794783, .75535, .707109, .646741, .569013, .46518, .319439, .1, 0"""
LTX2_8 = "1, .965712, .921875, .863856, .783445, .664579, .471003, .1, 0"
BETA_8 = "1, .994361, .980464, .956117, .914542, .840117, .695283, .394019, 0"
SCOPE_BETA_8 = "1, .593911, .529549, .453202, .363813, .262218, .153964, .054588, 0"
COSINE_8 = "1, .980785, .92388, .83147, .707107, .55557, .382683, .19509, 0"
QUADRATIC_12 = """1, .995833, .991667, .9875, .983333, .979167, .975, .944444, .861111, .725, .536111,
.294444, 0"""


def values(text: str) -> list[float]:
    return [float(word) for word in text.replace("\n", " ").split(",")]


@pytest.mark.parametrize(
    ("steps", "tokens", "golden"),
    [(30, 4096, LTX2_30), (15, 8160, LTX2_HQ), (20, 4096, LTX2_20), (8, 4096, LTX2_8)],
)
def test_ltx2_gives_the_published_values(steps: int, tokens: int, golden: str) -> None:
    assert schedules.ltx2(steps, tokens) == pytest.approx(values(golden), abs=6e-7)


@pytest.mark.parametrize(
    ("tokens", "start", "second_last_pair"),
    [
        (2640, [1, 0.992258, 0.984091, 0.97546, 0.966326], 0.215353),
        (6144, [1, 0.997017, 0.993836, 0.990434, 0.98679], 0.34952),
    ],
)
def test_ltx2_follows_the_token_count(tokens: int, start: list[float], second_last_pair: float) -> None:
    sigmas = schedules.ltx2(30, tokens)
    assert sigmas[:5] == pytest.approx(start, abs=6e-7)
    assert sigmas[-3:] == pytest.approx([second_last_pair, 0.1, 0], abs=6e-7)


def test_ltx2_without_stretch() -> None:
    assert schedules.ltx2(30, terminal=None)[:4] == pytest.approx([1, 0.99558, 0.990888, 0.985898], abs=6e-7)


def test_one_step_goes_from_noise_to_the_end() -> None:
    assert schedules.ltx2(1) == schedules.linear_quadratic(1) == (1.0, 0.0)


def test_linear_quadratic_gives_the_published_values() -> None:
    assert schedules.linear_quadratic(12) == pytest.approx(values(QUADRATIC_12), abs=6e-7)
    assert schedules.linear_quadratic(4) == pytest.approx([1, 0.9875, 0.975, 0.725, 0], abs=6e-7)
    assert schedules.linear_quadratic(2) == pytest.approx([1, 0.975, 0], abs=6e-7)
    tail = schedules.linear_quadratic(30)[-6:]
    assert tail == pytest.approx([0.536111, 0.445778, 0.347, 0.239778, 0.124111, 0], abs=6e-7)


def test_the_plain_schedules_give_the_published_values() -> None:
    assert schedules.linear(4) == (1, 0.75, 0.5, 0.25, 0)
    assert schedules.cosine(8) == pytest.approx(values(COSINE_8), abs=6e-7)
    assert schedules.cosine(8)[-1] == 0  # where a cosine computes 6e-17


def test_beta_gives_the_published_values() -> None:
    assert schedules.beta(8) == pytest.approx(values(BETA_8), abs=2e-6)


def test_the_quantiles_of_a_beta_distribution() -> None:
    found = [schedules.beta_quantile(1 - i / 8, 0.6, 0.6) for i in range(8)]
    golden = values("1, .942844, .82432, .670619, .5, .329381, .17568, .057156")
    assert found == pytest.approx(golden, abs=6e-7)


def test_beta_keeps_a_level_once_where_the_table_is_too_coarse() -> None:
    many = schedules.beta(1000)
    assert len(many) < 1001
    assert schedules.check(many) == many


def test_scope_beta_gives_the_values_scope_makes() -> None:
    assert schedules.scope_beta(8) == pytest.approx(values(SCOPE_BETA_8), abs=6e-7)
    assert schedules.scope_beta(4) == pytest.approx([1, 0.529549, 0.363813, 0.153964, 0], abs=6e-7)


def test_names_are_read_with_underscores_too() -> None:
    assert schedules.named("linear_quadratic", 12) == schedules.linear_quadratic(12)
    assert schedules.named("scope_beta", 4) == schedules.scope_beta(4)


def test_the_distilled_list_is_linear_quadratic_with_eight_steps() -> None:
    assert schedules.linear_quadratic(8) == pytest.approx(schedules.DISTILLED, abs=1e-12)
    assert schedules.DISTILLED[5:] == schedules.REFINE


def test_partial_keeps_the_end_of_the_list() -> None:
    golden = [0.952041, 0.890306, 0.789796, 0.65051, 0.472449, 0.255612, 0]
    assert schedules.partial(schedules.linear_quadratic(14), 6) == pytest.approx(golden, abs=6e-7)
    with pytest.raises(RequestError, match="between 1 and that"):
        schedules.partial(schedules.REFINE, 4)


def test_partial_by_strength_keeps_that_share_of_the_steps() -> None:
    assert schedules.partial(schedules.DISTILLED, strength=0.5) == schedules.DISTILLED[4:]
    assert schedules.partial(schedules.DISTILLED, strength=1) == schedules.DISTILLED
    assert schedules.partial(schedules.DISTILLED, strength=0.01) == schedules.DISTILLED[-2:]
    for wrong in (0, 1.5):
        with pytest.raises(RequestError, match="at most 1"):
            schedules.partial(schedules.DISTILLED, strength=wrong)
    with pytest.raises(ValueError, match="either steps or strength"):
        schedules.partial(schedules.DISTILLED, 2, strength=0.5)


def test_denoise_keeps_the_step_count_by_starting_further_down_a_longer_list() -> None:
    """The published lists of the refine passes at denoise 0.42."""
    six = schedules.named("linear-quadratic", 6, denoise=0.42)
    assert six == pytest.approx([0.952041, 0.890306, 0.789796, 0.65051, 0.472449, 0.255612, 0], abs=6e-7)
    four = schedules.named("linear-quadratic", 4, denoise=0.42)
    assert four == pytest.approx([0.931, 0.8115, 0.6165, 0.346, 0], abs=6e-7)
    assert schedules.named("linear", 6, denoise=0.6) == pytest.approx([i / 10 for i in range(6, -1, -1)])
    assert schedules.named("distilled", 8, denoise=0.5) == schedules.DISTILLED[4:]
    with pytest.raises(RequestError, match="denoise is 0"):
        schedules.named("linear", 6, denoise=0)


@pytest.mark.parametrize("name", schedules.NAMES)
def test_every_named_schedule_falls_from_one_to_zero(name: str) -> None:
    sigmas = schedules.named(name, 8)
    assert len(sigmas) == 9
    assert schedules.check(sigmas) == sigmas
    assert sigmas[0] == 1


def test_names_and_counts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(RequestError, match="the schedules are ltx2"):
        schedules.named("karras", 8)
    with pytest.raises(RequestError, match="exactly 8"):
        schedules.named("distilled", 10)
    with pytest.raises(RequestError, match="at least 1"):
        schedules.ltx2(0)


@pytest.mark.parametrize("bad", [(1.0,), (1.0, 1.0, 0.0), (0.2, 0.5, 0.0), (1.5, 0.0), (1.0, 0.5)])
def test_a_bad_list_is_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        schedules.check(bad)
    assert caught.value.field == "sigmas"
