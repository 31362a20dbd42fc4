"""Tokenize texts for a text tower: cleaned, tokenized and cut as the model's own config says."""

import html
import logging
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sightline.encoders.languages import is_foreign
from sightline.errors import ModelDamaged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids: TypeAlias = list[int]
"""The token ids of one text, with the model's marks at its ends, without padding."""

Reading: TypeAlias = Literal["yes", "perhaps", "no"]
"""Whether a model can read a text."""

_log = logging.getLogger(__name__)
_CHARACTERS = 100  # more than any token has; a megabyte without a space takes seconds to tokenise
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # what some tokenizers spell unknown characters with
_LARGE_BYTES = 8 << 20  # of a tokenizer that is worth to be looked up piece by piece
_SPACE = "\u2581"  # with which some tokenizers begin a word
_BEYOND_LATIN = re.compile(r"[^\0-\u024f\u1e00-\u206f]")
_ALPHABETIC = re.compile(r"[\u0250-\u1dff]")  # Greek, Cyrillic, Arabic, Hindi, Thai...: words of several letters
_SPELT_OUT, _FEW = 0.9, 3  # pieces a letter, from which on words are spelt out, and letters that are too few to tell
_MANY_LANGUAGES = 60_000  # pieces; CLIP's English has 49,408, XLM-R's 100 languages 250,002
_SHOWN = 40  # characters of a long text in the note about it


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """How a model reads text: from `text_cfg` of config.json and from textual/tokenizer_config.json.

    `sees_padding` says whether padding changes the vector of a text, so that the model must run at full length, as
    SigLIP's bidirectional towers do. Our own exports state `masks_padding`; None has to be tried.
    """

    tokenizer: Path
    context_length: int
    clean: str
    pad_token: str
    sees_padding: bool | None
    pads_left: bool
    drops_separator: str


def tokenizer_config(text: Mapping[str, Any], settings: Mapping[str, Any], tokenizer: Path) -> TokenizerConfig:
    """Read both configs; raises `ValueError`, `TypeError` or `KeyError` where they make no sense."""
    options = text.get("tokenizer_kwargs") or {}
    clean = options.get("clean") or ("whitespace" if text.get("hf_tokenizer_name") else "lower")
    if clean not in ("lower", "whitespace", "canonicalize"):
        raise ValueError(f"clean is {clean!r}")
    pad, separator = (  # configs give a special token as a string or as a table
        str(token["content"] if isinstance(token, Mapping) else token or "")
        for token in (settings.get("pad_token"), settings.get("sep_token"))
    )
    return TokenizerConfig(
        tokenizer=tokenizer,
        context_length=int(text.get("context_length") or 77),
        clean=clean,
        pad_token=pad,
        sees_padding=True if text.get("no_causal_mask") else False if text.get("masks_padding") else None,
        pads_left=settings.get("padding_side") == "left",
        drops_separator=separator if options.get("strip_sep_token") else "",
    )


class Tokens:
    """A model's tokenizer. `context_length` overrides the config's where the graph has a fixed length."""

    def __init__(self, config: TokenizerConfig, context_length: int | None = None) -> None:
        self.context_length = context_length or config.context_length
        self._clean, self._path, self._whole = config.clean, config.tokenizer, None
        try:
            if self._path.stat().st_size >= _LARGE_BYTES:
                tokenizer = self._of_pieces([])
            else:
                from tokenizers import Tokenizer

                tokenizer = self._whole = Tokenizer.from_file(str(self._path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelDamaged(
                f"{self._path} cannot be read ({error}), expected a Hugging Face tokenizer.json: "
                "fetch the model again, or copy the file from where the model came from"
            ) from error
        stored = tokenizer.padding or {}
        token_id = tokenizer.token_to_id(config.pad_token) if config.pad_token else None
        self.pad_id = int(stored.get("pad_id", 0) if token_id is None else token_id)
        self.pads_left = config.pads_left
        self._separator = tokenizer.token_to_id(config.drops_separator) if config.drops_separator else None
        self._unknown = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")} - {None}
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.context_length)

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, at most `context_length`; what is cut off is noted in the log."""
        rows, long = [], list[str]()
        every = [cleaned(text, self._clean)[: _CHARACTERS * self.context_length] for text in texts]
        tokenizer = self._whole or self._of_pieces(every)
        for text, ready in zip(texts, every, strict=True):
            encoding = tokenizer.encode(ready)  # one by one: encode_batch starts a pool of threads
            long += [text[:_SHOWN]] if encoding.overflowing else []
            rows.append([0 if token == self._separator else token for token in encoding.ids] or [self.pad_id])
        if long:
            others = f", and so are {len(long) - 1} more texts" if len(long) > 1 else ""
            _log.warning("%r... is too long: the model reads %d tokens of it%s", long[0], self.context_length, others)
        return rows

    def reads(self, text: str) -> Reading:
        """No if more than half of a text is unknown signs, or letters spelt out one by one; perhaps if it is foreign.

        Vocabularies of many languages have more pieces than any of English, and words of each language among them.
        """
        ready = cleaned(text, self._clean)[: _CHARACTERS * self.context_length]
        tokenizer = self._whole or self._of_pieces([ready])
        encoding = tokenizer.encode(ready, add_special_tokens=False)
        unknown, spelt = 0, 0
        for token, piece, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
            if token in self._unknown or _BYTE.fullmatch(piece):
                unknown += 1
            elif piece != _SPACE and _BEYOND_LATIN.search(ready[start:end]):
                spelt += 1
        signs = len(_BEYOND_LATIN.findall(ready))
        letters = len(_ALPHABETIC.findall(ready))
        if spelt > signs or (letters >= _FEW and spelt > _SPELT_OUT * signs):
            unknown += spelt
        if 2 * unknown > len(encoding.ids):
            return "no"
        is_english = self._whole is not None and tokenizer.get_vocab_size() < _MANY_LANGUAGES
        return "perhaps" if is_english and is_foreign(text, pieces=len(encoding.ids)) else "yes"

    def _of_pieces(self, ready: Sequence[str]) -> "Tokenizer":
        """What cleaned texts need of a large tokenizer; the whole one where the texts are many, or it is new."""
        from tokenizers import Tokenizer

        from sightline.encoders.pieces import Pieces

        pieces = Pieces(self._path)
        tokenizer: Tokenizer | None = pieces.for_texts(ready)
        if tokenizer is None:
            tokenizer = self._whole = Tokenizer.from_file(str(self._path))
            pieces.keep()
        if ready:
            tokenizer.no_padding()
            tokenizer.enable_truncation(self.context_length)
        return tokenizer


def cleaned(text: str, how: str) -> str:
    """A text as models were trained on it: CLIP's `lower`, SigLIP's `canonicalize`, others keep case (`whitespace`).

    All have plain quotes, one space between words, composed accents, no ligatures, full-width forms, control characters
    or HTML entities: what open_clip has ftfy do, but for text decoded with the wrong encoding, which nobody types.
    `canonicalize` takes punctuation away too, as canonicalize_text of big_vision's prompt_engineering.py does.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # a file name may bring half a character
    text = unicodedata.normalize("NFC", html.unescape(text).translate(_REPAIRS))
    text = html.unescape(html.unescape(text)).strip()
    if how == "canonicalize":
        text = text.replace("_", " ").translate(_PUNCTUATION)
    text = " ".join(text.split())
    return text if how == "whitespace" else text.lower()


_COMPATIBLE = (*range(0xFF01, 0xFFF0), *range(0xFB00, 0xFB07), *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4))
_SILENT = (*range(9), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD))
_REPAIRS: Mapping[int, str | None] = {
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in _COMPATIBLE},
    **{0x132: "IJ", 0x133: "ij", 0x149: "'n", 0x3000: " "},
    **dict.fromkeys([*range(0x2018, 0x201C), 0x2BC], "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    **dict.fromkeys(_SILENT),
}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
