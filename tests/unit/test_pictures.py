"""Pictures and animations arrive as a viewer shows them, however they are stored; damage is one sentence."""

import contextlib
import io
import itertools
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from soundstage.errors import MediaError, RequestError
from soundstage.media import picture
from soundstage.media.in_memory import in_memory
from soundstage.media.picture import is_picture, picture_frames, picture_info
from soundstage.media.pixels import rgb_pixels
from soundstage.media.probe import probe
from soundstage.request.inputs import Guide

COLOURS = np.array([[[220, 20, 20], [20, 200, 20]], [[20, 20, 220], [230, 230, 230]]], np.uint8)
QUARTERS = COLOURS.repeat(32, 0).repeat(48, 1)  # 96x64
STEPS = np.array([[0.2, 0.4], [0.6, 0.8]]).repeat(32, 0).repeat(48, 1)
GREYS = (STEPS * 255).round().astype(np.uint8)


def still(path: Path) -> np.ndarray:
    return next(picture_frames(path))


def far(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference in the middles of the quarters."""
    height, width = a.shape[:2]
    assert a.shape[:2] == b.shape[:2]
    places = [(height * y // 4, width * x // 4) for y, x in itertools.product((1, 3), (1, 3))]
    return max(int(np.abs(a[p].astype(int) - b[p].astype(int)).max()) for p in places)


def grey(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[..., None], 3, -1)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# --- Turned -----------------------------------------------------------------------------------------

TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_turns_every_format_that_carries_it(tmp_path: Path, ending: str, turn: int) -> None:
    image = Image.fromarray(QUARTERS)
    exif = image.getexif()
    exif[0x0112] = turn
    path = saved(tmp_path / f"a.{ending}", image, exif=exif, quality=95)
    named_wrongly = path.rename(tmp_path / "a.dat")
    wanted = TURNED[turn](QUARTERS)
    assert far(still(named_wrongly), wanted) <= 25
    info = picture_info(named_wrongly)
    assert (info.height, info.width) == wanted.shape[:2]


def test_a_picture_in_memory_is_turned_too(tmp_path: Path) -> None:
    image = Image.fromarray(QUARTERS)
    exif = image.getexif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", image, exif=exif)
    frames = in_memory(Image.open(path)).frames
    assert frames is not None
    assert np.array_equal(frames[0], np.rot90(QUARTERS, -1))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0nonsense" * 9])
def test_damaged_exif_is_left_aside(tmp_path: Path, ending: str, exif: bytes) -> None:
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(QUARTERS), exif=exif, quality=95)
    assert far(still(path), QUARTERS) <= 25
    assert picture_info(path).width == 96


# --- Depths and modes -------------------------------------------------------------------------------


def deep_png(path: Path, samples: np.ndarray, colour_type: int, more: bytes = b"") -> Path:
    """A PNG of 16 bits per sample, (H, W, channels)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    body = header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    deep = (STEPS * 65535).round().astype(np.uint16)
    wanted = grey(GREYS)
    assert far(still(saved(tmp_path / "grey.png", Image.fromarray(deep))), wanted) <= 1
    assert far(still(saved(tmp_path / "grey.tif", Image.fromarray(deep))), wanted) <= 1
    assert far(rgb_pixels(Image.fromarray(deep)), wanted) <= 1
    colour = QUARTERS.astype(np.uint16) * 257
    assert far(still(deep_png(tmp_path / "rgb.png", colour, 2)), QUARTERS) <= 1
    with_alpha = np.concatenate([deep[..., None], np.full((64, 96, 1), 65535)], -1)
    assert far(still(deep_png(tmp_path / "la.png", with_alpha, 4)), wanted) <= 1


def test_a_hidden_value_of_sixteen_bits_is_black(tmp_path: Path) -> None:
    deep = (STEPS * 65535).round().astype(np.uint16)[..., None]
    data = struct.pack(">H", int(deep[0, 0, 0]))
    more = struct.pack(">I", 2) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))
    wanted = grey(GREYS)
    wanted[:32, :48] = 0
    assert far(still(deep_png(tmp_path / "a.png", deep, 0, more)), wanted) <= 1


@pytest.mark.parametrize(("white", "unsigned"), [(2**32 - 1, True), (2**31 - 1, False), (65535, False)])
def test_whole_numbers_of_32_bits_are_scaled(tmp_path: Path, white: int, unsigned: bool) -> None:
    image = Image.fromarray((STEPS * white).astype(np.uint32).view(np.int32))
    assert image.mode == "I"
    path = saved(tmp_path / "a.tif", image)
    if unsigned:
        patched(path, 339, 2, 1)
    assert far(still(path), grey(GREYS)) <= 1


@pytest.mark.parametrize("white", [255, 65535])
def test_whole_numbers_in_memory_are_scaled(white: int) -> None:
    assert far(rgb_pixels(Image.fromarray((STEPS * white).round().astype(np.int32))), grey(GREYS)) <= 1


def patched(path: Path, tag: int, old: int, new: int) -> None:
    """Change the value of a tag of a TIFF."""
    data = path.read_bytes()
    before, after = (struct.pack("<HHIHH", tag, 3, 1, value, 0) for value in (old, new))
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))


def test_white_may_be_zero(tmp_path: Path) -> None:
    deep = (STEPS * 65535).round().astype(np.uint16)
    path = saved(tmp_path / "a.tif", Image.fromarray(deep))
    patched(path, 262, 1, 0)
    assert far(still(path), grey(255 - GREYS)) <= 1


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point_is_scaled(tmp_path: Path, white: float) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((STEPS * white).astype(np.float32)))
    assert far(still(path), grey(GREYS)) <= 1


def test_floating_point_beyond_its_range_is_clipped() -> None:
    values = STEPS.astype(np.float32)
    values[0, :4] = np.nan, np.inf, -np.inf, 7.0
    assert rgb_pixels(Image.fromarray(values))[0, :4, 0].tolist() == [0, 255, 0, 255]
    assert rgb_pixels(Image.fromarray(np.full((4, 4), np.nan, np.float32))).max() == 0


@pytest.mark.parametrize(
    ("mode", "ending", "error"),
    [
        ("P", "png", 40),
        ("P", "gif", 40),
        ("CMYK", "jpg", 25),
        ("CMYK", "tif", 0),
        ("YCbCr", "tif", 3),
        ("RGB", "bmp", 0),
        ("RGB", "ppm", 0),
        ("RGB", "jp2", 60),
        ("RGB", "avif", 25),
        ("RGBX", "tif", 0),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, ending: str, error: int) -> None:
    image = Image.fromarray(QUARTERS).convert(mode)
    assert far(still(saved(tmp_path / f"a.{ending}", image)), QUARTERS) <= error


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(STEPS > 0.5)
    assert image.mode == "1"
    for ending in ("png", "tif", "bmp"):
        path = saved(tmp_path / f"a.{ending}", image)
        assert np.array_equal(still(path), grey((STEPS > 0.5) * np.uint8(255)))


def test_lab_becomes_rgb(tmp_path: Path) -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.fromarray(QUARTERS), to_lab)
    assert lab is not None
    assert far(still(saved(tmp_path / "a.tif", lab)), QUARTERS) <= 6


# --- Alpha ------------------------------------------------------------------------------------------


def transparent_quarter(mode: str) -> Image.Image:
    """The first quarter is hidden, the second half transparent; under both is magenta or white."""
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:32, :48], alpha[:32, 48:] = 0, 128
    colour = QUARTERS.copy()
    colour[:32, :48] = (255, 0, 255)
    image = Image.fromarray(np.dstack([colour, alpha]))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "avif"])
def test_transparent_parts_show_black(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path / f"a.{ending}", transparent_quarter("RGBA"), quality=95)
    shown = still(path)
    assert shown[16, 24].max() <= 3
    assert np.abs(shown[16, 72].astype(int) - [10, 100, 10]).max() <= 12
    assert np.abs(shown[48, 72].astype(int) - 230).max() <= 12


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa"])
def test_every_kind_of_alpha_is_composed(mode: str) -> None:
    if mode == "La":
        image = transparent_quarter("LA").convert("La")
    elif mode == "RGBa":
        image = transparent_quarter("RGBA").convert("RGBa")
    elif mode == "PA":
        image = transparent_quarter("RGBA").quantize(16).convert("PA")
        image.putalpha(transparent_quarter("RGBA").getchannel("A"))
        assert image.mode == "PA"
    else:
        image = transparent_quarter("LA")
    frames = in_memory(image).frames
    assert frames is not None
    assert frames[0, 16, 24].max() <= 3
    assert frames[0, 48, 72].min() >= 180


def test_a_hidden_palette_entry_or_colour_is_black(tmp_path: Path) -> None:
    palette = Image.fromarray(QUARTERS).quantize(4)
    hidden = palette.getpixel((24, 16))
    wanted = QUARTERS.copy()
    wanted[:32, :48] = 0
    for ending in ("png", "gif"):
        assert far(still(saved(tmp_path / f"p.{ending}", palette, transparency=hidden)), wanted) <= 5
    path = saved(tmp_path / "rgb.png", Image.fromarray(QUARTERS), transparency=(220, 20, 20))
    assert far(still(path), wanted) == 0
    levels = grey(GREYS)
    levels[:32, :48] = 0
    path = saved(tmp_path / "l.png", Image.fromarray(GREYS), transparency=int(GREYS[0, 0]))
    assert far(still(path), levels) == 0


# --- Colour profiles --------------------------------------------------------------------------------


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of a grey space with this gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    white = fixed(0.9642) + fixed(1) + fixed(0.8249)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"Grey\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2),
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
    }
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for key, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += key + struct.pack(">II", at + len(body), len(padded))
        body += padded
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_a_grey_profile_is_applied_to_grey(tmp_path: Path) -> None:
    near, far_off = (
        saved(tmp_path / f"{gamma}.png", Image.fromarray(GREYS), icc_profile=grey_profile(gamma))
        for gamma in (2.2, 1.0)
    )
    assert far(still(near), grey(GREYS)) <= 12
    linear = np.interp(STEPS, [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 124, 170, 203, 231, 255])  # the sRGB curve
    assert far(still(far_off), grey(linear.astype(np.uint8))) <= 4


def test_a_profile_leaves_alpha_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", transparent_quarter("RGBA"), icc_profile=srgb_profile())
    plain = saved(tmp_path / "b.png", transparent_quarter("RGBA"))
    assert np.abs(still(path).astype(int) - still(plain)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "1", "P", "LA"])
@pytest.mark.parametrize(
    "profile", [grey_profile(2.2), srgb_profile(), b"damaged" * 40, srgb_profile()[:400]]
)
def test_a_profile_that_does_not_fit_is_never_fatal(tmp_path: Path, mode: str, profile: bytes) -> None:
    image = Image.fromarray(QUARTERS).convert(mode)
    for ending in ("tif",) if mode == "CMYK" else ("png", "tif"):
        path = saved(tmp_path / f"with.{ending}", image, icc_profile=profile)
        plain = saved(tmp_path / f"without.{ending}", image)
        assert far(still(path), still(plain)) <= 12


@pytest.mark.parametrize(
    ("name", "image", "options", "says"),
    [
        ("a.png", transparent_quarter("RGBA"), {}, "transparent parts are shown on black"),
        (
            "a.png",
            Image.fromarray(QUARTERS),
            {"icc_profile": b"damaged" * 40},
            "profile is damaged and left aside",
        ),
        (
            "a.png",
            Image.fromarray(GREYS),
            {"icc_profile": srgb_profile()},
            "profile is for RGB, not L, and is left",
        ),
        ("a.tif", Image.fromarray(STEPS.astype(np.float32) * 255), {}, "32-bit numbers are read as 0 to 255"),
    ],
)
def test_what_is_changed_is_told(
    tmp_path: Path, name: str, image: Image.Image, options: dict[str, Any], says: str
) -> None:
    (notice,) = probe(str(saved(tmp_path / name, image, **options))).notices
    assert says in notice
    opaque = Image.fromarray(QUARTERS).convert("RGBA")
    assert probe(str(saved(tmp_path / "plain.png", opaque, icc_profile=srgb_profile()))).notices == ()


# --- Animations -------------------------------------------------------------------------------------


def animation(count: int = 17) -> list[Image.Image]:
    levels = [16 + 220 * i // (count - 1) for i in range(count)]
    return [Image.fromarray(np.full((64, 96, 3), level, np.uint8)) for level in levels]


def animated(path: Path, frames: list[Image.Image], duration: Any, **options: Any) -> Path:
    return saved(path, frames[0], save_all=True, append_images=frames[1:], duration=duration, **options)


@pytest.mark.parametrize(("ending", "fps"), [("gif", 25), ("webp", 1 / 0.042), ("png", 1 / 0.042)])
def test_an_animation_is_a_clip(tmp_path: Path, ending: str, fps: float) -> None:
    path = animated(tmp_path / f"a.{ending}", animation(), 42, loop=0)
    info = picture_info(path)
    assert info.num_frames == 17
    assert info.fps == pytest.approx(fps)
    levels = [int(frame[0, 0, 0]) for frame in picture_frames(path)]
    assert levels == pytest.approx([16 + 220 * i // 16 for i in range(17)], abs=2)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_frames_are_shown_for_their_own_time(tmp_path: Path, ending: str) -> None:
    path = animated(tmp_path / f"a.{ending}", animation(3), [40, 120, 200])
    assert picture_info(path).num_frames == 9
    levels = [int(f[0, 0, 0]) for f in picture_frames(path)]
    assert levels == pytest.approx([16, *[126] * 3, *[236] * 5], abs=2)
    chosen = [int(f[0, 0, 0]) for f in picture_frames(path, times_s=[0.3, 0.0, 0.159, 9.0])]
    assert chosen == pytest.approx([236, 16, 126, 236], abs=2)


@pytest.mark.parametrize(
    ("durations", "fps", "count"),
    [
        ([30, 30, 40] * 4, 30, 12),  # 30 fps in hundredths
        ([1000, 2000], 8, 24),  # slides
        ([0, 0, 0], 10, 3),  # as browsers show them
        ([20, 70, 30], 50, 6),
    ],
)
def test_rates_of_animations(tmp_path: Path, durations: list[int], fps: float, count: int) -> None:
    path = animated(tmp_path / "a.gif", animation(len(durations)), durations)
    info = picture_info(path)
    assert info.num_frames == count
    assert info.fps == pytest.approx(fps)
    levels = [int(f[0, 0, 0]) for f in picture_frames(path)]
    assert len(levels) == count
    assert sorted(set(levels)) == sorted(
        {16 + 220 * i // (len(durations) - 1) for i in range(len(durations))}
    )


def test_the_still_of_an_apng_is_not_a_frame_of_it(tmp_path: Path) -> None:
    frames = [Image.fromarray(QUARTERS), *animation(3)]
    path = animated(tmp_path / "a.png", frames, 100, default_image=True)
    assert picture_info(path).num_frames == 3
    assert [int(f[0, 0, 0]) for f in picture_frames(path)] == [16, 126, 236]


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_what_a_frame_leaves_behind(tmp_path: Path, ending: str) -> None:
    """Frames of a transparent picture, each cleared before the next, do not pile up."""
    frames = []
    for i in range(3):
        image = Image.new("RGBA", (96, 64))
        image.paste((250, 250, 250, 255), (32 * i, 0, 32 * i + 32, 64))
        frames.append(image)
    path = animated(tmp_path / f"a.{ending}", frames, 100, disposal=2 if ending == "gif" else 1)
    shown = [[int(f[32, x, 0]) for x in (16, 48, 80)] for f in picture_frames(path)]
    assert shown == [[250, 0, 0], [0, 250, 0], [0, 0, 250]]


def test_pages_of_a_tiff_and_the_second_picture_of_a_phone_are_no_clip(tmp_path: Path) -> None:
    pages = [Image.fromarray(QUARTERS), *animation(2)]
    for name in ("a.tif", "a.mpo"):
        path = saved(tmp_path / name, pages[0], save_all=True, append_images=pages[1:])
        assert picture_info(path).num_frames == 1
        assert far(still(path), QUARTERS) <= 60
    assert picture_info(tmp_path / "a.tif").notices == ("only the first of its 3 pages is read",)


# --- What a file is ---------------------------------------------------------------------------------


def test_content_decides_not_the_ending(tmp_path: Path) -> None:
    for ending in ("png", "jpg", "gif", "webp", "tif", "bmp", "jp2", "avif", "ppm", "ico"):
        path = saved(tmp_path / f"a.{ending}", Image.fromarray(QUARTERS))
        assert is_picture(path.rename(tmp_path / "film.mp4"))
    for content in (b"", b"hello", b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2avc1mp41"):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        assert not is_picture(path)
    assert not is_picture(tmp_path)
    assert not is_picture(tmp_path / "missing.png")


def test_a_row_of_jpegs_is_a_film(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.jpg", Image.fromarray(QUARTERS)).read_bytes()
    (tmp_path / "b.jpg").write_bytes(one * 3)
    assert is_picture(tmp_path / "a.jpg")
    assert not is_picture(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "an HEIF picture"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
        (b"\x76\x2f\x31\x01" + bytes(20), "an OpenEXR picture"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
def test_kinds_that_are_not_read_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert is_picture(path)
    with pytest.raises(MediaError, match=rf"a\.jpg is {says}.*convert it"):
        picture_info(path)


def test_a_raw_picture_is_not_its_preview(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706], tags.tagtype[50706] = b"\1\4\0\0", 1
    path = saved(tmp_path / "a.dng", Image.fromarray(QUARTERS), format="TIFF", tiffinfo=tags)
    with pytest.raises(MediaError, match="raw picture"):
        picture_info(path)


# --- Damage and size --------------------------------------------------------------------------------


def grey_png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("size", [(20_000, 10_000), (12_000, 12_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_is_too_large_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = grey_png(tmp_path / "a.png", 8, 8)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", *size)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    tracemalloc.start()
    for read in (picture_info, still):
        with pytest.raises(MediaError, match=r"megapixels.*make it smaller"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_large_picture_is_averaged_down(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "MAX_KEPT_PIXELS", 32 * 24)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(QUARTERS), quality=95)
    small = still(path)
    assert small.shape[0] * small.shape[1] <= 32 * 24
    assert far(small, QUARTERS[::3, ::3] if small.shape[1] == 32 else QUARTERS[::4, ::4]) <= 25
    assert (picture_info(path).width, picture_info(path).height) == (96, 64)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "gif", "avif", "bmp"])
def test_a_cut_picture_is_one_sentence(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        MediaError, match=rf"a\.{ending} cannot be read as a picture \([^\n]+\); is it"
    ) as error:
        still(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_mark_is_read_with_a_notice(
    tmp_path: Path, missing: int, progressive: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (640, 960, 3), dtype=np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(noise), progressive=progressive)
    whole = still(path)
    path.write_bytes(path.read_bytes()[:-missing])
    assert np.array_equal(still(path), whole)
    assert picture_info(path).notices == (
        "the end of the file is missing, but all rows of the picture are there",
    )
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError, match=r"cannot be read as a picture \(image file is truncated"):
        still(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "gif", "avif", "bmp", "jp2", "apng", "psd"])
def test_damaged_bytes_raise_nothing_but_our_own(tmp_path: Path, ending: str) -> None:
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF", "apng": "PNG", "psd": "BMP"}
    frames = animation(3) if ending in ("gif", "webp", "apng") else [Image.fromarray(QUARTERS)]
    more = {"save_all": True, "append_images": frames[1:], "duration": 50} if len(frames) > 1 else {}
    frames[0].save(buffer, kind.get(ending, ending.upper()), **more)
    if ending == "psd":
        head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 96, 8, 3)
        buffer = io.BytesIO(head + bytes(14 + 64 * 96 * 3))
    rng, path = random.Random(ending), tmp_path / "a.bin"
    for _ in range(40):
        data = bytearray(buffer.getvalue())
        for _ in range(rng.choice((1, 5, 30))):
            data[rng.randrange(min(8, len(data) - 1), len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(MediaError):
            picture_info(path)
            list(picture_frames(path, [0.0, 0.1]))


def test_a_picture_in_memory_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(QUARTERS))
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(RequestError, match="PIL picture cannot be decoded"):
        Guide(Image.open(path))


def test_a_frame_that_reaches_beyond_the_first_is_cut(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.gif", animation(3), 100)
    data = bytearray(path.read_bytes())
    places = [i for i in range(len(data)) if data[i : i + 9] == b"\x2c" + struct.pack("<4H", 0, 0, 96, 64)]
    assert len(places) == 3
    data[places[1] + 1 : places[1] + 3] = struct.pack("<H", 16)  # from x = 16 on
    path.write_bytes(data)
    frames = list(picture_frames(path))
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert [int(v) for v in frames[1][0, (0, 20), 0]] == pytest.approx([16, 126], abs=2)


def test_another_picture_of_the_same_size_and_time_under_a_name_is_read_again(tmp_path: Path) -> None:
    """As an exchange that keeps the old file's times leaves it."""
    path = tmp_path / "a.bmp"
    Image.new("RGB", (16, 8), "red").save(path)
    before = path.stat()
    assert picture_info(path).width == 16
    Image.new("RGB", (8, 16), "blue").save(tmp_path / "b.bmp")
    os.replace(tmp_path / "b.bmp", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert picture_info(path).width == 8
