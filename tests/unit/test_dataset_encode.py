"""Datasets encoded with a tiny model: what is in the files, what is kept, made again or refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import soundstage as ss
from soundstage.cli.program import app
from soundstage.dataset import encoding
from soundstage.dataset.config import CaptionMaking, MaskMaking, open_dataset
from soundstage.dataset.encoded import Sample, open_encoded
from soundstage.dataset.identity import model_identity
from soundstage.dataset.masks import drawn, given_cells
from soundstage.dataset.out_of_date import not_trained_on, stale
from soundstage.dataset.prepared import prepare
from soundstage.dataset.scanning import scan
from soundstage.engine import Engine
from soundstage.errors import DatasetError, RequestError
from soundstage.rendering.encoded_inputs import sound_latents
from tests.dataset_clips import clip, picture, tone
from tests.limits import joined
from tests.tiny_model import write_text_encoder, write_tiny_model

CONFIG = "sources: .\nbuckets: 64x64x9\ntrigger: blue\naudio_buckets: 1\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine of a tiny model with a true, tiny text encoder."""
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    write_text_encoder(folder / "text")
    return ss.load(folder, device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    """A dataset of each kind of sample, encoded."""
    folder = tmp_path_factory.mktemp("data")
    clip(folder / "ball.mp4", frames=9, caption="a red ball")
    clip(folder / "ball_ref.mp4", frames=9, shade=20)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(folder / "ball_mask.png")
    tone(folder / "ball_voice.wav", seconds=0.4, channels=1)
    clip(folder / "mute.mp4", frames=12, tone_hz=None, shade=140)
    picture(folder / "still.png")
    tone(folder / "alone.wav", seconds=1.2, channels=6, rate_hz=22_050)
    _encode(folder, engine)
    return folder


def _encode(folder: Path, engine: Engine, text: str = CONFIG, **options: Any) -> encoding.Encoded:
    (folder / "dataset.yaml").write_text(text)
    dataset = open_dataset(folder)
    found = scan(dataset)
    for item, role in found.unprepared:
        prepare(dataset, item, role)
    return encoding.encode(dataset, scan(dataset), engine, **options)


def _samples(folder: Path) -> dict[str, Sample]:
    encoded = open_encoded(folder)
    return {info.id: encoded.load(info) for info in encoded.samples}


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in sample.tensors().items()}


def test_every_kind_of_sample_has_its_tensors(made: Path, engine: Engine) -> None:
    encoded = open_encoded(made, model_identity(engine.model))
    infos = {info.id: info for info in encoded.samples}
    samples = _samples(made)
    assert _shapes(samples["ball.mp4"]) == {
        "video_text": (5, 64), "audio_text": (5, 32), "video": (128, 2, 2, 2), "audio": (8, 9, 16),
        "reference": (128, 2, 2, 2), "reference_audio": (8, 10, 16), "video_mask": (2, 2, 2),
    }  # fmt: skip
    assert infos["ball.mp4"].caption == "blue a red ball"
    assert set(samples["mute.mp4"].tensors()) == {"video_text", "audio_text", "video"}
    assert samples["still.png"].video is not None
    assert tuple(samples["still.png"].video.shape) == (128, 1, 2, 2)
    assert infos["alone.wav"].size is None
    assert _shapes(samples["alone.wav"])["audio"] == (8, 25, 16)
    mask = samples["ball.mp4"].video_mask
    assert mask is not None
    assert mask.tolist() == [[[0, 1], [0, 1]]] * 2


def test_latents_and_features_are_those_of_inference(made: Path, engine: Engine) -> None:
    parts = encoding.encoder_parts(engine)
    sample = _samples(made)["ball.mp4"]
    (features,) = parts.text.features(["blue a red ball"])
    again = sample.features(engine.model.defaults.text_tokens)
    valid = features.mask[0]
    assert torch.equal(again.mask, features.mask)
    assert torch.equal(again.video[0, valid], features.video[0, valid])
    with torch.no_grad():
        heard = sound_latents(parts, str(made / "ball.mp4"), 0.0, 9)[0]
    assert sample.audio is not None
    assert torch.equal(sample.audio, heard)


def test_pieces_of_a_clip_give_the_latents_of_the_whole(
    made: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(made)
    item = next(item for item in scan(dataset).items if item.id == "mute.mp4")
    identity = model_identity(engine.model)
    wanted = encoding.WantedSamples(dataset, identity, "float32")
    monkeypatch.setattr(encoding, "WHOLE_BYTES", 0)
    monkeypatch.setattr(encoding, "PIECE_FRAMES", 4)
    with torch.no_grad():
        pieces = encoding.SampleWork(dataset, wanted, encoding.encoder_parts(engine)).tensors(item)["video"]
    whole = _samples(made)["mute.mp4"].video
    assert whole is not None
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)


def test_what_is_there_is_kept_and_what_changed_is_made_again(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(tmp_path / "one.mp4", frames=9, tone_hz=None, caption="a red ball")
    clip(tmp_path / "two.mp4", frames=9, tone_hz=None, shade=150, caption="a blue ball")
    config = "sources: .\nbuckets: 64x64x9\n"
    assert _encode(tmp_path, engine, config).made == ["one.mp4", "two.mp4"]
    assert _encode(tmp_path, engine, config).kept == ["one.mp4", "two.mp4"]

    assert not_trained_on(tmp_path) is None
    before = _samples(tmp_path)["one.mp4"]
    (tmp_path / "one.txt").write_text("a blue ball")
    sentence = not_trained_on(tmp_path)
    assert sentence is not None
    assert sentence.startswith("one.mp4 was encoded before its caption changed; `soundstage dataset encode")
    told = stale(open_dataset(tmp_path), scan(open_dataset(tmp_path)))
    assert [finding.message for finding in told] == ["one.mp4 was encoded before its caption changed"]
    with monkeypatch.context() as patch:  # another caption leaves the latents
        patch.setattr(encoding.SampleWork, "tensors", None)
        assert _encode(tmp_path, engine, config).made == ["one.mp4"]
    after = _samples(tmp_path)["one.mp4"]
    assert torch.equal(_video(before), _video(after))
    assert not torch.equal(before.video_text, after.video_text)

    clip(tmp_path / "two.mp4", frames=9, tone_hz=None, shade=10)
    outcome = _encode(tmp_path, engine, f"{config}fps: 25\nrepeats: 2\n")
    assert outcome.made == ["one.mp4", "two.mp4"]
    assert {info.repeats for info in open_encoded(tmp_path).samples} == {2}
    (tmp_path / "two.mp4").unlink()
    outcome = _encode(tmp_path, engine, f"{config}fps: 25\nrepeats: 3\n")
    assert (outcome.made, outcome.kept, outcome.removed) == ([], ["one.mp4"], ["two.mp4"])
    assert open_encoded(tmp_path).samples[0].repeats == 3


def _video(sample: Sample) -> torch.Tensor:
    assert sample.video is not None
    return sample.video


def test_an_encoding_that_was_stopped_goes_on(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        clip(tmp_path / f"{number}.mp4", frames=9, tone_hz=None, shade=40 * number, caption="a ball")
    work = encoding.SampleWork.tensors

    def stopping(self: Any, item: Any) -> Any:
        if item.id == "1.mp4":
            raise KeyboardInterrupt
        return work(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(encoding.SampleWork, "tensors", stopping)
        with pytest.raises(KeyboardInterrupt) as stopped:
            _encode(tmp_path, engine, "sources: .\nbuckets: 64x64x9\n")
    assert "1 of 3 samples are encoded and kept" in stopped.value.__notes__[0]
    assert not (tmp_path / "encoded" / "index.json").exists()
    outcome = _encode(tmp_path, engine, "sources: .\nbuckets: 64x64x9\n")
    assert (outcome.kept, outcome.made) == (["0.mp4"], ["1.mp4", "2.mp4"])


def test_errors_stop_an_encoding_unless_they_are_to_be_skipped(tmp_path: Path, engine: Engine) -> None:
    clip(tmp_path / "good.mp4", frames=9, tone_hz=None, caption="a ball")
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    config = "sources: .\nbuckets: 64x64x9\n"
    with pytest.raises(DatasetError, match=r"bad\.mp4 .* leave it out by skip_bad") as refused:
        _encode(tmp_path, engine, config)
    assert str(refused.value).count("bad.mp4") == 1
    assert not (tmp_path / "encoded").exists()
    outcome = _encode(tmp_path, engine, config, skip_bad=True)
    assert (outcome.made, len(outcome.failed)) == (["good.mp4"], 1)


def test_references_and_masks_are_made_as_files_and_encoded(tmp_path: Path, engine: Engine) -> None:
    clip(tmp_path / "ball.mp4", frames=9, tone_hz=None, caption="a ball")
    config = (
        "sources: .\nbuckets: 64x64x9\nreferences: {kind: colourise, downscale: 2}\nmasks: {kind: boxes}\n"
    )
    _encode(tmp_path, engine, config)
    (info,) = open_encoded(tmp_path).samples
    sample = _samples(tmp_path)["ball.mp4"]
    assert (info.reference_downscale, _shapes(sample)["reference"]) == (2, (128, 2, 1, 1))
    made = ss.Clip.open(next((tmp_path / "prepared" / "references").iterdir()))
    assert made.frames is not None
    assert made.frames.shape == (9, 64, 64, 3)
    assert (made.frames.max(axis=-1) == made.frames.min(axis=-1)).all()  # grey
    (mask,) = (tmp_path / "prepared" / "masks").iterdir()
    assert _encode(tmp_path, engine, config).kept == ["ball.mp4"]
    picture(mask, shade=255)  # by hand: it stays, and is encoded
    assert _encode(tmp_path, engine, config).made == ["ball.mp4"]
    other = config.replace("colourise", "canny")
    assert _encode(tmp_path, engine, other).made == ["ball.mp4"]  # made again by another kind


# --- masks --------------------------------------------------------------------------------------------


def test_masks_are_grouped_as_latents_are() -> None:
    pixels = torch.zeros(17, 64, 64)
    pixels[8] = 1  # the last frame of latent 1
    pixels[9, :32] = 1  # the first of latent 2
    cells = given_cells(pixels, "given")
    assert cells[:, 0, 0].tolist() == [0, 1, 1]
    assert cells[:, 1, 0].tolist() == [0, 1, 0]
    assert given_cells(pixels, "made")[:, 1, 0].tolist() == [1, 0, 1]
    few = torch.zeros(1, 32, 32)
    few[0, :8] = 1
    assert given_cells(few, "given").item() == 0  # a quarter of it is white
    assert given_cells(few, "made").item() == 0  # touched by what is made


@pytest.mark.parametrize("kind", ["boxes", "strokes", "border", "time"])
def test_drawn_masks_cover_the_share_and_are_each_items_own(kind: Any) -> None:
    making = MaskMaking(kind=kind, share=(0.3, 0.4))
    size = (96, 64, 17)
    shares = [(drawn(making, f"{i}.mp4", size, "made") > 0).mean() for i in range(8)]
    assert min(shares) > 0.2
    assert max(shares) < 0.7
    first, again, other = (drawn(making, name, size, "made") for name in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(drawn(making, "a", size, "given"), 255 - first)


# --- captions -----------------------------------------------------------------------------------------


class _Answering(BaseHTTPRequestHandler):
    """A small OpenAI-compatible server: refuses the first calls, then describes what it was sent."""

    statuses: ClassVar[list[int]] = []
    calls: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.calls.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        status = self.statuses.pop(0) if self.statuses else 200
        text = f"The video shows a red square, seen in call {len(self.calls)}."
        answer = {"choices": [{"message": {"role": "assistant", "content": text}}]} if status == 200 else {}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    _Answering.statuses, _Answering.calls = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    joined(thread)
    server.server_close()


def _caption(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["dataset", "caption", str(folder), *words])


def test_captions_come_from_a_server_and_a_stopped_run_goes_on(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        clip(tmp_path / f"{number}.mp4", frames=9, tone_hz=None, shade=50 * number)
    (tmp_path / "0.txt").write_text("A caption of its own.")
    (tmp_path / "dataset.yaml").write_text(
        "sources: .\nbuckets: 64x64x9\ncaptions: {frames: 2, retries: 1}\n"
    )
    monkeypatch.setattr("soundstage.writing.served.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("soundstage.writing.served.LONGEST_PAUSE_S", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    _Answering.statuses[:] = [503, 200, 500, 500]
    stopped = _caption(tmp_path, "--url", address, "--model", "eye")
    assert stopped.exit_code == 2
    assert "answers 500" in stopped.stderr
    assert "captions so far are kept" in stopped.stderr
    done = _caption(tmp_path, "--url", address, "--model", "eye")
    assert done.exit_code == 0, done.output
    captions = [item.caption for item in scan(open_dataset(tmp_path)).items]
    assert captions == [
        "A caption of its own.",
        "A red square, seen in call 2.",
        "A red square, seen in call 5.",
    ]
    call = _Answering.calls[-1]
    assert (call["path"], call["key"], call["model"]) == ("/v1/chat/completions", "Bearer secret", "eye")
    pictures = [part for part in call["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(pictures) == 2
    assert pictures[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert len(_Answering.calls) == 5
    _caption(tmp_path, "--url", address)  # all have one
    assert len(_Answering.calls) == 5


def test_a_call_that_is_refused_for_good_is_not_made_again(tmp_path: Path, address: str) -> None:
    clip(tmp_path / "0.mp4", frames=9, tone_hz=None)
    (tmp_path / "dataset.yaml").write_text("sources: .\nbuckets: 64x64x9\n")
    _Answering.statuses[:] = [401]
    result = _caption(tmp_path, "--url", address)
    assert (result.exit_code, len(_Answering.calls)) == (2, 1)
    assert "answers 401" in result.stderr


def test_a_captioner_that_is_not_there_is_told() -> None:
    from soundstage.dataset.captioning import captioner

    with pytest.raises(RequestError, match="no model is named"):
        captioner(CaptionMaking())
    with pytest.raises(DatasetError, match="no such folder"):
        captioner(CaptionMaking(model="/none/such"))


def _write_tiny_vision_model(folder: Path) -> None:
    """A LLaVA of random weights that knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "a", "red", "ball", "rolls"]
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision = CLIPVisionConfig(num_hidden_layers=2, image_size=32, patch_size=16, **small)
    text = LlamaConfig(vocab_size=len(words), num_hidden_layers=1, num_key_value_heads=2, **small)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


@pytest.mark.slow
def test_captions_come_from_a_vision_model_on_this_machine(tmp_path: Path) -> None:
    _write_tiny_vision_model(tmp_path / "eye")
    clip(tmp_path / "data" / "0.mp4", frames=9, tone_hz=None)
    config = "sources: .\nbuckets: 64x64x9\ncaptions: {max_tokens: 8, prompt: a red ball}\n"
    (tmp_path / "data" / "dataset.yaml").write_text(config)
    result = _caption(tmp_path / "data", "--model", str(tmp_path / "eye"))
    assert result.exit_code == 0, result.output
    (item,) = scan(open_dataset(tmp_path / "data")).items
    assert set(item.caption.lower().split()) <= {"a", "red", "ball", "rolls"}
    assert item.caption
