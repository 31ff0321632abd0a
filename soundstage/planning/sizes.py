"""The size of a film: as asked, as its inputs have it, or the model's own; what of an input is cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from soundstage.errors import listed
from soundstage.planning.grid import snap_side
from soundstage.planning.plan import PassPlan
from soundstage.planning.resolve import ResolvedRequest
from soundstage.request.request import ORIENTATIONS
from soundstage.types import SPACE_SCALE, enlargement

Size = tuple[int, int]  # width, height in pixels

WIDEST = 4.0  # the longest shape, as width / height or height / width, that a film takes over from an input
# What a wrong area costs against a wrong shape when a size is chosen: a picture is rather smaller than cut.
AREA_WEIGHT = 0.25
TOLD_CUT = 0.01  # of a side; less than this is the rounding to whole cells


@dataclass(frozen=True)
class FilmSize:
    """Sizes of the last pass, the result and the source.

    made: in whole latent cells. shown, source: where the source's own size is none of cells, its edges are
    drawn out to `source`, and the result is cut to `shown`; else None. The same holds for the reference of a
    film with light, which is mirrored at its edges.
    """

    made: Size
    shown: Size | None = None
    source: Size | None = None


def film_size(resolved: ResolvedRequest) -> FilmSize:
    """Return the size of the film: as asked, as its source's, or the model's own in the shape of an input."""
    own = _source_size(resolved)
    canvas = resolved.source is not None and resolved.source.canvas is not None
    if resolved.request.size is None and own is not None and not canvas:
        return _kept(resolved, own)
    if resolved.request.size is None and resolved.relit is not None:
        return _kept(resolved, (resolved.relit.width, resolved.relit.height))
    return FilmSize(_rounded(resolved))


def _kept(resolved: ResolvedRequest, own: Size) -> FilmSize:
    """Return the size of a film that keeps its source's: cells that cover it, cut back to even sides."""
    step = side_step(resolved)
    width, height = (-(-side // step) * step for side in own)
    if (width, height) == own:
        return FilmSize(own)
    shown = (own[0] + own[0] % 2, own[1] + own[1] % 2)
    if shown != own:
        resolved.snap("size", f"{own[0]}x{own[1]}", f"{shown[0]}x{shown[1]}", "even sides, as H.264 needs")
    factor = _growth(resolved)
    return FilmSize((width, height), shown, (round(width / factor), round(height / factor)))


def _rounded(resolved: ResolvedRequest) -> Size:
    """Return the size that is asked for or follows from what is; a rounded one is noted in the snaps."""
    step = side_step(resolved)
    if resolved.request.size is None and _source_size(resolved) is None:
        leading = _leading_input(resolved)
        if leading is not None:
            return _followed(resolved, *leading, step)
    asked = (
        resolved.request.size
        or _source_size(resolved)
        or resolved.recipe.resolution
        or resolved.defaults.size
    )
    if isinstance(asked, str):
        asked = _named_size(resolved, asked)
    used = (snap_side(asked[0], step), snap_side(asked[1], step))
    if used != tuple(asked):
        resolved.snap("size", f"{asked[0]}x{asked[1]}", f"{used[0]}x{used[1]}", f"multiples of {step}")
    return used


def side_step(resolved: ResolvedRequest) -> int:
    """Return what sides must be multiples of, so that every pass and reference has whole latent cells."""
    steps = [SPACE_SCALE]
    for pass_ in resolved.recipe.passes:
        own = enlargement(pass_.upsample, "space") if pass_.start == "source" else 1
        ratio = pass_.space / own
        scales = [resolved.downscale_of(one) for _, one in resolved.request.followed if pass_.references]
        steps.append(math.ceil(SPACE_SCALE * ratio.denominator) * max([1, *scales]))
    return math.lcm(*steps)


def shaped_size(aspect: float, area: int, step: int) -> Size:
    """Return the size of a shape: multiples of `step`, at most `area` pixels, or the smallest there is.

    aspect: width / height. Of the sizes there are, the one whose shape is nearest, unless it is much smaller.
    """
    heights = range(step, max(step, int(area / step)) + 1, step)
    sizes = [
        (max(step, whole(aspect * h / step) * step), h) for h in heights for whole in (round, math.floor)
    ]
    fitting = [size for size in sizes if size[0] * size[1] <= area] or [(step, step)]
    return min(fitting, key=lambda size: _misfit(size, aspect, area))


def tell_cuts(resolved: ResolvedRequest, pass_: PassPlan, size: FilmSize) -> None:
    """Add a notice for every input that is cut to the shape of the film. pass_: the last."""
    width, height = pass_.width, pass_.height
    crops = [(f"guides[{i}].image", guide.crop) for i, guide in enumerate(resolved.request.guides)]
    crops += [(where, clip.crop) for where, clip in resolved.request.followed]
    for where, crop in crops if resolved.has_video else ():
        if crop == "center" and (size.source is None or where != "references[0].video"):
            _tell_cut(resolved, where, (width, height))
    if (
        size.source is None
        and resolved.source is not None
        and pass_.source is not None
        and resolved.source.crop == "center"
    ):
        left, top, right, bottom = pass_.source.margins
        _tell_cut(resolved, "source.video", (width - left - right, height - top - bottom))


def _misfit(size: Size, aspect: float, area: int) -> float:
    width, height = size
    shape = abs(math.log(width / height / aspect))
    return shape + AREA_WEIGHT * abs(math.log(width * height / area))


def _leading_input(resolved: ResolvedRequest) -> tuple[str, Size] | None:
    """Return the first picture or clip that the film follows, and its size."""
    request = resolved.request
    names = [f"guides[{i}].image" for i in range(len(request.guides))]
    names += [where for where, _ in request.followed]
    for name in names if resolved.has_video else ():
        info = resolved.infos.get(name)
        if info is not None and info.width and info.height:
            return name, (info.width, info.height)
    return None


def _followed(resolved: ResolvedRequest, name: str, own: Size, step: int) -> Size:
    """Return the size with an input's shape and the area that the film would have without it."""
    plain = resolved.recipe.resolution or resolved.defaults.size
    width, height = _named_size(resolved, plain) if isinstance(plain, str) else plain
    aspect = min(WIDEST, max(1 / WIDEST, own[0] / own[1]))
    used = shaped_size(aspect, snap_side(width, step) * snap_side(height, step), step)
    if used != (snap_side(width, step), snap_side(height, step)):
        rule = f"the shape of {name}, at this model's own area, in multiples of {step}"
        resolved.snap("size", f"{own[0]}x{own[1]}", f"{used[0]}x{used[1]}", rule)
    return used


def _source_size(resolved: ResolvedRequest) -> Size | None:
    info, source = resolved.source_info, resolved.source
    if info is None or source is None or info.width == 0:
        return None
    width, height = info.width, info.height
    factor = _growth(resolved)
    width, height = round(width * factor), round(height * factor)
    if source.canvas is not None:
        width, height = (
            width + source.canvas.left + source.canvas.right,
            height + source.canvas.top + source.canvas.bottom,
        )
    return width, height


def _growth(resolved: ResolvedRequest) -> Fraction:
    """Return how many times larger the film is than its source."""
    first = resolved.recipe.passes[0]
    if first.start != "source":
        return Fraction(1)
    return enlargement(first.upsample, "space") / first.space


def _named_size(resolved: ResolvedRequest, name: str) -> Size:
    """Return the size of a name; of one that the model does not have, its own size and a problem."""
    defaults = resolved.defaults
    if name in defaults.presets:
        return defaults.presets[name]
    resolution, _, orientation = name.partition("-")
    resolution = "2160p" if resolution == "4k" else resolution
    if resolution not in defaults.resolutions:
        known = listed(name, [*defaults.presets, *defaults.resolutions])
        resolved.problem("size", f"size is '{name}'; the sizes of this model are {known}, or WIDTHxHEIGHT")
        return defaults.size
    width, height = defaults.resolutions[resolution]
    if orientation == ORIENTATIONS[1]:
        return height, width
    if orientation == ORIENTATIONS[2]:
        return (side := round(math.sqrt(width * height))), side
    return width, height


def _tell_cut(resolved: ResolvedRequest, where: str, used: Size) -> None:
    info, record = resolved.infos.get(where), where.partition("[")[0].partition(".")[0]
    if info is None or not info.width or not info.height:
        return
    scale = max(used[0] / info.width, used[1] / info.height)
    lost = [1 - shown / (side * scale) for shown, side in zip(used, (info.width, info.height), strict=True)]
    for side, share in zip(("width", "height"), lost, strict=True):
        if share >= TOLD_CUT:
            resolved.notice(
                f"{where} is {info.width}x{info.height} and the film {used[0]}x{used[1]}: "
                f"{100 * share:.0f} % of its {side} is cut off; give 'pad' for {record}.crop to show all "
                "of it"
            )
