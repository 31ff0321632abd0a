"""Files of high dynamic range: curves by their published values; EXR, ProRes 4444 and HLG, and back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import soundstage as ss
from soundstage.clip import Clip, read_provenance
from soundstage.errors import MediaError, MissingExtraError, RequestError
from soundstage.media.exr import read_exr, read_header, write_exr
from soundstage.media.hdr import Hdr, shown
from soundstage.media.light import CURVES, LOGC3_STOP, from_logc3, hlg_scene, to_acescct, to_hlg, to_logc3
from soundstage.media.load import light_shown
from soundstage.media.probe import probe

HALF_STEP = 2.0**-11  # the largest error of rounding to 16-bit floating point, of the value
FPS = 24.0
PROVENANCE = {"request": ss.Request(prompt="a café", seed=3).to_dict(), "model": "test"}


def light(num_frames: int = 3, height: int = 32, width: int = 64) -> Any:
    """Smooth light from black to far above white, as 16-bit floating point."""
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1)
    return np.stack([40 * ramp**4 * (1 + 0.1 * t) for t in range(num_frames)]).astype(np.float16)


def clip(num_frames: int = 3, **hdr: Any) -> Clip:
    own = Hdr(**hdr)
    linear = light(num_frames)
    return Clip(np.stack([shown(f, own) for f in linear]), None, FPS, PROVENANCE, linear=linear, hdr=own)


# --- curves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linear", "code"), [(0, 0.092809), (0.01, 0.146486), (0.18, 0.391007), (1, 0.570632), (10, 0.816917)]
)
def test_logc3_codes_light_as_published(linear: float, code: float) -> None:
    assert to_logc3(linear) == pytest.approx(code, abs=1e-6)
    assert from_logc3(code) == pytest.approx(linear, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize(
    ("code", "linear"),
    [(0, 0), (0.09, 0), (0.2, 0.022557), (0.391, 0.179988), (0.5, 0.513383), (0.75, 5.357164), (1, 55.0796)],
)
def test_logc3_is_decoded_as_published_and_cut_at_black(code: float, linear: float) -> None:
    assert from_logc3(code) == pytest.approx(linear, rel=1e-5, abs=1e-6)
    assert from_logc3(code + 2 * (code == 1)) <= 55.0797  # a code above 1 is cut


def test_a_stop_is_the_same_step_of_logc3_in_bright_light() -> None:
    assert pytest.approx(0.0744, abs=1e-4) == LOGC3_STOP
    assert to_logc3(20.0) - to_logc3(10.0) == pytest.approx(LOGC3_STOP, abs=1e-4)


def test_acescct_codes_light_as_published() -> None:
    assert to_acescct(0.18) == pytest.approx(0.4135884, abs=1e-6)
    assert to_acescct(0.0078125) == pytest.approx(0.155251141552511, abs=1e-6)
    assert to_acescct(1.0) == pytest.approx(9.72 / 17.52, abs=1e-6)
    assert to_acescct(0.0) == pytest.approx(0.0729055341958355, abs=1e-7)


@pytest.mark.parametrize("name", list(CURVES))
def test_a_curve_brings_back_what_it_codes(name: Any) -> None:
    values = np.float32(light(1)[0])
    assert CURVES[name].decode(CURVES[name].encode(values)) == pytest.approx(values, rel=2e-4, abs=2e-5)


def test_hlg_has_diffuse_white_at_three_quarters() -> None:
    assert to_hlg(1.0) == pytest.approx(0.75, abs=1e-6)
    values = np.array([0.0, 0.01, 0.3, 1.0, 3.7])
    assert hlg_scene(to_hlg(values)) / hlg_scene(0.75) == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_a_preview_is_exposed_in_stops_and_tone_mapped_or_cut() -> None:
    grey = np.full((1, 1, 3), 0.25, np.float32)
    assert shown(grey, Hdr(tone_map="clip"))[0, 0, 0] == 137  # sRGB of 0.25
    assert shown(grey, Hdr(tone_map="clip", exposure=1))[0, 0, 0] == 188  # of 0.5
    assert shown(grey * 4, Hdr())[0, 0, 0] == 188  # 1 / (1 + 1)
    assert shown(grey * 400, Hdr(tone_map="clip"))[0, 0, 0] == 255
    assert shown(grey * 1e9, Hdr(exposure=20))[0, 0, 0] == 255


# --- EXR -----------------------------------------------------------------------------------------------


def test_light_comes_back_from_exr_to_half_precision(tmp_path: Path) -> None:
    values = np.random.default_rng(0).lognormal(0, 3, (9, 7, 3)).astype(np.float32)
    write_exr(tmp_path / "a.exr", values, curve="linear", hdr=Hdr(), fps=Fraction(24000, 1001))
    back = read_exr(tmp_path / "a.exr")
    assert np.abs(back - values).max() > 0
    assert (np.abs(back - values) <= values * HALF_STEP + 2.0**-25).all()
    assert read_header(tmp_path / "a.exr").fps == 24000 / 1001


def test_an_exr_in_logc3_is_read_back_as_light(tmp_path: Path) -> None:
    values = np.float32(light(1)[0])
    write_exr(tmp_path / "a.exr", values, curve="logc3", hdr=Hdr("exr-logc3"))
    assert read_header(tmp_path / "a.exr").curve == "logc3"
    assert read_exr(tmp_path / "a.exr") == pytest.approx(values, rel=0.01, abs=1e-3)


def test_acescg_is_the_same_by_its_matrix_and_by_opencolorio(tmp_path: Path) -> None:
    values = np.float32(light(1)[0])
    own, ocio = tmp_path / "own.exr", tmp_path / "ocio.exr"
    write_exr(own, values, curve="linear", hdr=Hdr(space="acescg"))
    write_exr(ocio, values, curve="linear", hdr=Hdr(space="ACEScg", ocio="studio-config-latest"))
    assert read_exr(own) == pytest.approx(values, rel=0.01, abs=0.02)
    import OpenEXR

    pixels = [np.float32(OpenEXR.File(str(path)).parts[0].channels["RGB"].pixels) for path in (own, ocio)]
    assert pixels[0] == pytest.approx(pixels[1], rel=2e-3, abs=1e-3)
    with pytest.raises(MediaError, match="in the colour space 'ACEScg', which is not read back"):
        read_exr(ocio)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"space": "acescct"}, "output.space is 'acescct'; give acescg, or a space of an OpenColorIO config"),
        (
            {"space": "ACEScgg", "ocio": "cg-config-latest"},
            "the colour spaces of cg-config-latest are ACEScg,",
        ),
        (
            {"space": "ACEScg", "ocio": "nix.ocio"},
            "output.ocio is 'nix.ocio'; give a .ocio file that is there",
        ),
    ],
)
def test_a_colour_space_that_is_not_known_is_refused_before_anything_is_written(
    tmp_path: Path, fields: dict[str, str], told: str
) -> None:
    with pytest.raises(MediaError, match=told):
        clip(**fields).save(f"{tmp_path}/out/")
    assert not list(tmp_path.iterdir())


def test_what_an_output_would_not_use_is_refused() -> None:
    with pytest.raises(RequestError, match="hlg has a colour space of its own"):
        Hdr("hlg", space="acescg")
    with pytest.raises(RequestError, match=r"nothing would be read of it; give output\.space"):
        Hdr(ocio="cg-config-latest")
    with pytest.raises(RequestError, match="exposure"):
        Hdr(exposure=21)


def test_a_clip_with_light_becomes_numbered_exr_with_its_provenance(tmp_path: Path) -> None:
    made = clip()
    made.save(f"{tmp_path / 'ball'}/")
    names = sorted(path.name for path in (tmp_path / "ball").iterdir())
    assert names == ["frame_00000.exr", "frame_00001.exr", "frame_00002.exr"]
    info = probe(str(tmp_path / "ball"))
    assert (info.width, info.height, info.num_frames, info.fps, info.exr) == (64, 32, 3, FPS, True)
    assert read_provenance(tmp_path / "ball") == PROVENANCE
    back = Clip.open(tmp_path / "ball")
    assert back.linear is not None
    assert back.frames is not None
    assert made.frames is not None
    assert np.array_equal(back.linear, made.linear)
    assert np.array_equal(back.frames, made.frames)
    assert np.array_equal(Clip.open(tmp_path / "ball" / "frame_%05d.exr").linear, made.linear)


def test_a_preview_in_standard_range_is_any_other_file_of_the_clip(tmp_path: Path) -> None:
    made = clip()
    path = made.save(tmp_path / "a.png" if made.frames is None else tmp_path / "a.mkv", codec="ffv1")
    back = Clip.open(path)
    assert back.linear is None
    assert back.frames is not None
    assert np.abs(back.frames.astype(int) - made.frames).max() <= 1


def test_a_folder_that_was_not_finished_is_left_without_files(tmp_path: Path) -> None:
    made = clip()
    assert made.linear is not None
    (tmp_path / "frame_00002.exr").mkdir()
    with pytest.raises(MediaError, match="which is a folder"):
        made.save(tmp_path / "frame_%05d.exr")
    assert [path.name for path in tmp_path.iterdir()] == ["frame_00002.exr"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a_0.exr", "a_2.exr"), "no picture of number 1 between 0 and 2"),
        (
            ("a_0.exr", "b_0.exr"),
            "holds several sequences; give the name of one of them: a_%05d.exr, b_%05d.exr",
        ),
        (("a.exr", "b_0.exr"), "has no number"),
    ],
)
def test_a_folder_that_is_no_sequence_is_refused(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    for name in names:
        write_exr(tmp_path / name, np.zeros((4, 4, 3), np.float32), curve="linear", hdr=Hdr())
    with pytest.raises(MediaError, match=told):
        probe(str(tmp_path))


def test_damaged_and_foreign_pictures_are_refused_by_name(tmp_path: Path) -> None:
    whole = np.ones((64, 64, 3), np.float32) * np.random.default_rng(0).random((64, 64, 3), np.float32)
    write_exr(tmp_path / "a.exr", whole, curve="linear", hdr=Hdr())
    (tmp_path / "cut.exr").write_bytes((tmp_path / "a.exr").read_bytes()[:2000])
    with pytest.raises(MediaError, match=r"cut\.exr"):
        read_exr(tmp_path / "cut.exr")
    import OpenEXR

    holes = np.full((4, 4, 3), np.nan, np.float16)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": holes}).write(str(tmp_path / "nan.exr"))
    with pytest.raises(MediaError, match="48 values that are not numbers"):
        read_exr(tmp_path / "nan.exr")
    OpenEXR.File(header, {"Z": np.zeros((4, 4), np.float16)}).write(str(tmp_path / "depth.exr"))
    with pytest.raises(MediaError, match="has the channels Z; give one with R, G and B"):
        read_exr(tmp_path / "depth.exr")


def test_primaries_and_the_window_that_is_shown_are_followed(tmp_path: Path) -> None:
    import OpenEXR

    header = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        "chromaticities": (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
        "displayWindow": (np.array([0, 0], np.int32), np.array([5, 3], np.int32)),
        "dataWindow": (np.array([2, 1], np.int32), np.array([3, 2], np.int32)),
    }
    OpenEXR.File(header, {"RGB": np.ones((2, 2, 3), np.float16)}).write(str(tmp_path / "a.exr"))
    found = read_exr(tmp_path / "a.exr")
    assert found.shape == (4, 6, 3)
    assert found[1:3, 2:4] == pytest.approx(np.ones((2, 2, 3)), abs=1e-3)  # white stays white
    assert found.sum() == pytest.approx(12, abs=0.01)
    header["chromaticities"] = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)
    OpenEXR.File(header, {"RGB": np.ones((2, 2, 3), np.float16)}).write(str(tmp_path / "b.exr"))
    with pytest.raises(MediaError, match="has primaries that are not known"):
        read_exr(tmp_path / "b.exr")


def test_without_the_extra_a_sentence_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clip()
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'soundstage\[hdr\]'"):
        made.save(f"{tmp_path / 'ball'}/")
    assert not list(tmp_path.iterdir())


# --- films ---------------------------------------------------------------------------------------------


def stored(path: Path) -> tuple[Any, Any]:
    """The first frame as it was coded, and its pixels as 16-bit RGB of its own curve."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        rgb = frame.reformat(format="rgb48le", src_colorspace=9 if frame.colorspace == 9 else 1)
        return frame, rgb.to_ndarray() / 65535


def test_prores_4444_holds_logc3_in_ten_bits(tmp_path: Path) -> None:
    made = clip(format="prores4444")
    assert made.linear is not None
    frame, codes = stored(made.save(tmp_path / "a.mov"))
    with av.open(str(tmp_path / "a.mov")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "ap4h"
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 2)
    assert np.abs(codes - to_logc3(made.linear[0])).mean() < 2 / 1023
    assert from_logc3(codes).max() > 10


def test_hlg_is_tagged_and_comes_back_as_light(tmp_path: Path) -> None:
    made = clip(format="hlg")
    assert made.linear is not None
    path = made.save(tmp_path / "a.mp4", quality=100)
    frame, _ = stored(path)
    assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (9, 18, 9)
    assert frame.format.name == "yuv420p10le"
    assert probe(str(path)).light
    back = next(iter(light_shown(str(path), [0.0], FPS)))
    dim = made.linear[0].max(axis=-1) < 3  # brighter light is beyond what HLG holds
    assert np.abs(back - made.linear[0])[dim].mean() < 0.05
    bright = np.float32(made.linear[0].min(axis=-1) > 0.5) * dim
    assert bright.any()


def test_standard_pictures_can_be_written_as_light(tmp_path: Path) -> None:
    grey = np.full((1, 8, 8, 3), 188, np.uint8)
    path = Clip(grey, None, FPS).save(tmp_path / "a.exr")
    assert read_exr(path)[0, 0, 0] == pytest.approx(0.503, abs=2e-3)
    with pytest.raises(MediaError, match=r"output is .*a\.exr, one picture, and the clip has 2 frames"):
        Clip(np.repeat(grey, 2, 0), None, FPS).save(tmp_path / "a.exr")


# --- conversion ----------------------------------------------------------------------------------------


def test_finished_light_is_converted_to_films_and_back(tmp_path: Path) -> None:
    made = clip()
    assert made.linear is not None
    folder = tmp_path / "ball"
    made.save(f"{folder}/")
    ss.convert(folder, tmp_path / "a.mov", codec="prores4444")
    assert np.abs(stored(tmp_path / "a.mov")[1] - to_logc3(made.linear[0])).mean() < 2 / 1023
    ss.convert(folder, tmp_path / "a.mp4", codec="hlg", quality=100)
    assert probe(str(tmp_path / "a.mp4")).light
    ss.convert(tmp_path / "a.mp4", tmp_path / "again_%05d.exr")
    again = Clip.open(tmp_path / "again_%05d.exr")
    assert again.linear is not None
    assert len(again.linear) == 3
    assert 3.5 < again.linear[..., 1].max() < 6  # HLG ends at 3.77, in BT.2020
    assert read_provenance(tmp_path / "again_%05d.exr") == PROVENANCE


def test_light_is_shown_as_asked_when_it_is_converted(tmp_path: Path) -> None:
    made = clip()
    assert made.linear is not None
    folder = tmp_path / "ball"
    made.save(f"{folder}/")
    ss.convert(folder, tmp_path / "a.png", at_s=0.0, exposure=-1, tone_map="clip")
    back = Clip.open(tmp_path / "a.png").frames
    assert back is not None
    assert np.array_equal(back[0], shown(made.linear[0], Hdr(exposure=-1, tone_map="clip")))
    ss.convert(folder, tmp_path / "half.exr", at_s=0.0, size="50%")
    assert read_exr(tmp_path / "half.exr").shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("name", "wanted", "told"),
    [
        ("a.mov", {"codec": "prores4444", "exposure": 1}, "exposure is 1, and .*a.mov keeps its light"),
        ("a.mp4", {"space": "acescg"}, "space is 'acescg', which is for linear EXR files"),
        ("a.exr", {}, r"give at_s, the second of one of them, or a name such as frame_%05d\.exr"),
        ("a.mp4", {"tone_map": "filmic"}, "tone_map is 'filmic'"),
    ],
)
def test_a_wish_about_light_that_has_no_effect_is_refused(
    tmp_path: Path, name: str, wanted: dict[str, Any], told: str
) -> None:
    clip(2).save(f"{tmp_path / 'ball'}/")
    with pytest.raises((MediaError, RequestError), match=told):
        ss.convert(tmp_path / "ball", tmp_path / name, **wanted)
    with pytest.raises(MediaError, match=r"exposure is 1, and .* has no high dynamic range"):
        ss.convert(clip(2).save(tmp_path / "plain.mkv", codec="ffv1"), tmp_path / "b.mp4", exposure=1)


def test_a_shorter_sequence_is_not_written_over_a_longer_one(tmp_path: Path) -> None:
    folder = f"{tmp_path / 'ball'}/"
    clip(4).save(folder)
    with pytest.raises(
        MediaError, match=r"frame_00002\.exr of another sequence would be read as the end of th"
    ):
        clip(2).save(folder, overwrite=True)
    assert len(list((tmp_path / "ball").iterdir())) == 4
    clip(4).save(folder, overwrite=True)


def test_the_header_says_what_other_programs_look_for(tmp_path: Path) -> None:
    import OpenEXR

    clip(1).save(f"{tmp_path / 'ball'}/")
    file = OpenEXR.File(str(tmp_path / "ball" / "frame_00000.exr"))
    header = file.header()
    assert header["compression"] == OpenEXR.ZIP_COMPRESSION
    assert header["framesPerSecond"] == Fraction(24)
    assert header["chromaticities"] == pytest.approx(
        (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329), abs=1e-6
    )
    assert file.channels()["RGB"].pixels.dtype == np.float16


def test_prores_is_of_twelve_bits_a_channel_with_codes_within_three_steps_of_ten(tmp_path: Path) -> None:
    made = clip(format="prores4444")
    assert made.linear is not None
    frame, codes = stored(made.save(tmp_path / "a.mov"))
    assert frame.format.name == "yuv444p12le"
    away = np.abs(codes - to_logc3(made.linear[0])) * 1023
    assert away.max() < 4
    assert away.mean() < 0.6
    stops = np.log2(from_logc3(codes[made.linear[0] > 1]) / made.linear[0][made.linear[0] > 1])
    assert np.abs(stops).max() < 0.06


def test_hlg_says_its_curve_in_the_file_too(tmp_path: Path) -> None:
    path = clip(format="hlg").save(tmp_path / "a.mp4")
    nclx = path.read_bytes().partition(b"colrnclx")[2][:7]
    assert [int.from_bytes(nclx[i : i + 2]) for i in (0, 2, 4)] == [9, 18, 9]
    assert nclx[6] >> 7 == 0  # of limited range
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.profile, context.codec_tag) == ("Main 10", "hvc1")
