"""A tokenizer from the pieces of a SentencePiece model, without the sentencepiece package.

Single files of Gemma carry their tokenizer as the bytes of `tokenizer.model` (a protocol buffer) or, in
GGUF, as lists of its pieces. Both become the same tokenizers.Tokenizer: byte-pair merges in the order of the
pieces' scores, after the pieces that stand for themselves have been cut out of the text.

Source: SentencePiece's model format; held to sentencepiece's own encoding by tests/parity/test_text_forms.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, MissingExtraError, WeightsError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece's kinds of piece
SPACE = "\u2581"  # how pieces spell a space

# Numbers of the fields that matter in SentencePiece's messages.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_KIND = 1, 2, 3
TRAINER_ALGORITHM, BYTE_PAIRS = 3, 2
CHARACTER_MAP, DUMMY_PREFIX, REMOVE_SPACES = 2, 3, 4


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its place in the list is its id. Merges with a higher score come first."""

    text: str
    score: float
    kind: int = NORMAL


def read_pieces(data: bytes) -> list[Piece]:
    """Read the pieces of a `tokenizer.model`.

    Raises WeightsError for bytes that are none, ConfigError for a model that splits text unlike Gemma's.
    """
    pieces, trainer, normalizer = [], b"", b""
    try:
        for number, value in _fields(data):
            if number == PIECES:
                pieces.append(_piece(value))
            elif number == TRAINER:
                trainer = value
            elif number == NORMALIZER:
                normalizer = value
        algorithm = dict(_fields(trainer)).get(TRAINER_ALGORITHM, 1)
        rules = dict(_fields(normalizer))
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise WeightsError(
            f"the tokenizer is not a SentencePiece model ({error}); get tokenizer.model again"
        ) from error
    if not pieces:
        raise WeightsError("the SentencePiece model has no pieces; get tokenizer.model again")
    if algorithm != BYTE_PAIRS:
        raise ConfigError(
            "the SentencePiece model is not of byte pairs, as Gemma's is; get Gemma 3's tokenizer"
        )
    if rules.get(CHARACTER_MAP) or rules.get(DUMMY_PREFIX, 1) or rules.get(REMOVE_SPACES, 1):
        raise ConfigError("the SentencePiece model changes text before it splits it; get Gemma 3's tokenizer")
    return pieces


def read_gguf_pieces(path: Path) -> list[Piece]:
    """Pieces that a GGUF file lists. Raises WeightsError for a file without them."""
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "reading a GGUF file") from error
    keys = [f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type")]
    try:
        fields = gguf.GGUFReader(path).fields
        columns = [fields[key].contents() for key in keys if key in fields]
        if len(columns) == len(keys):
            rows = zip(*columns, strict=True)
            return [Piece(str(text), float(score), int(kind)) for text, score, kind in rows]
    except Exception as error:  # the package raises whatever its parsing of a damaged file runs into
        raise WeightsError(f"the tokenizer in it is damaged ({error}); get the GGUF file again") from error
    missing = ", ".join(key for key in keys if key not in fields)
    raise WeightsError(f"the file has no {missing}; get a GGUF file that holds its tokenizer")


def build_tokenizer(pieces: Sequence[Piece]) -> Any:
    """Build a tokenizers.Tokenizer of these pieces, without BOS. Raises ConfigError for one without <unk>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    unknown = next((piece.text for piece in pieces if piece.kind == UNKNOWN), None)
    if unknown is None:
        raise ConfigError("the tokenizer has no piece for unknown text; get Gemma 3's tokenizer")
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(p.text, normalized=False, special=True) for p in pieces if p.kind == CONTROL]
    )
    # They are matched after spaces are spelled out, as pieces like a run of spaces need.
    tokenizer.add_tokens([AddedToken(p.text, normalized=True) for p in pieces if p.kind == USER_DEFINED])
    return tokenizer


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return every way to make a normal piece of two; the highest score first, then the earlier pieces."""
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.kind == NORMAL}
    by_score = sorted(ids, key=lambda text: -pieces[ids[text]].score)
    merges = []
    for text in by_score:
        halves = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [(ids[a], ids[b], a, b) for a, b in halves if a in ids and b in ids]
        merges += [(a, b) for _, _, a, b in sorted(known)]
    return merges


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = struct.unpack("<f", fields[PIECE_SCORE])[0] if PIECE_SCORE in fields else 0.0
    return Piece(fields[PIECE_TEXT].decode(), score, fields.get(PIECE_KIND, NORMAL))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of a protocol buffer's fields: an int, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if at + size > len(data):
            raise ValueError("it is cut short")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number in groups of seven bits, the lowest first; return it and where the next field begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
