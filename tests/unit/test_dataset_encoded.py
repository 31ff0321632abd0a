"""The encoded dataset: what is written comes back, and what does not fit is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import soundstage as ss
from soundstage.dataset.encoded import Sample, open_encoded, write_sample
from soundstage.dataset.identity import ModelIdentity, model_identity
from soundstage.dataset.index import SampleInfo, read_info, write_index
from soundstage.dataset.items import sample_file
from soundstage.errors import DatasetError

WHO = ModelIdentity(name="tiny", video_vae="v", audio_vae="a", text="t", text_tokens=8)


def _sample() -> Sample:
    return Sample(
        video_text=torch.randn(5, 6),
        audio_text=torch.randn(5, 4, dtype=torch.float32),
        video=torch.randn(128, 2, 1, 3).bfloat16(),
        video_mask=torch.ones(2, 1, 3, dtype=torch.uint8),
    )


def _info(sample: Sample, **fields: object) -> SampleInfo:
    has = tuple(sample.tensors())
    made: dict[str, object] = {"id": "a/ball.mp4", "fps": 25.0, "size": (96, 32, 9), "has": has}
    return SampleInfo(**(made | fields))  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, SampleInfo, Sample]:
    sample = _sample()
    info = _info(sample, caption="a ball", made_with={"model": "tiny"})
    write_sample(tmp_path / "encoded", info, sample)
    write_index(tmp_path / "encoded", WHO, [info])
    return tmp_path, info, sample


def test_tensors_and_facts_come_back_as_they_were(written: tuple[Path, SampleInfo, Sample]) -> None:
    folder, info, sample = written
    encoded = open_encoded(folder, WHO)
    assert encoded.samples == (info,)
    assert encoded.fps == 25.0
    loaded = encoded.load(info).tensors()
    assert loaded.keys() == sample.tensors().keys()
    for name, tensor in sample.tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_features_are_filled_up_for_the_connectors() -> None:
    sample = _sample()
    features = sample.features(8)
    assert features.video.shape == (1, 8, 6)
    assert features.audio.shape == (1, 8, 4)
    assert features.mask.tolist() == [[True] * 5 + [False] * 3]
    assert torch.equal(features.video[0, :5], sample.video_text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"video_vae": "other"}, "another video VAE"),
        ({"text": "other"}, "another text encoder"),
        ({"video_vae": "other", "text": "other"}, "another video VAE and text encoder"),
        ({"text_tokens": 16}, "prompts of 8 tokens, and 'new' reads 16"),
    ],
)
def test_other_encoders_are_refused_by_name(
    written: tuple[Path, SampleInfo, Sample], change: dict[str, object], words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        open_encoded(written[0], replace(WHO, name="new", **change))  # type: ignore[arg-type]


def test_an_encoder_that_made_nothing_of_a_dataset_does_not_matter(
    written: tuple[Path, SampleInfo, Sample],
) -> None:
    assert open_encoded(written[0], replace(WHO, audio_vae="other")).samples


def test_damage_and_missing_files_are_named(written: tuple[Path, SampleInfo, Sample]) -> None:
    folder, info, _ = written
    path = folder / "encoded" / info.file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"is damaged: it holds another content"):
        open_encoded(folder).load(info)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match="is not an encoded sample"):
        read_info(path)
    path.unlink()
    with pytest.raises(DatasetError, match="has no file"):
        open_encoded(folder)


def test_a_folder_without_an_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="soundstage dataset encode"):
        open_encoded(tmp_path)


def test_a_file_knows_its_own_line_of_the_index(written: tuple[Path, SampleInfo, Sample]) -> None:
    folder, info, _ = written
    assert read_info(folder / "encoded" / info.file) == info


def test_names_that_look_alike_have_files_of_their_own() -> None:
    assert len({sample_file(name) for name in ("a/ball.mp4", "a-ball.mp4", "A/ball.mp4", "a/ball.png")}) == 4


def test_a_model_is_known_by_its_weights_and_not_by_its_place(tmp_path: Path, tiny_folder: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    mine = model_identity(ss.load(tiny_folder).model)
    theirs = model_identity(ss.load(copy).model)
    assert replace(mine, name="") == replace(theirs, name="")
    other = model_identity(ss.load("nano").model)
    assert {mine.video_vae, mine.text}.isdisjoint({other.video_vae, other.text})
