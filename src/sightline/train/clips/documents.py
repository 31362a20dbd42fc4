"""What a source says of its model besides weights -> the JSON files of a model folder, and a reader of texts."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from sightline.encoders.preprocess import Preprocessing, preprocessing
from sightline.encoders.tokens import Tokens, tokenizer_config

START, END = "<start_of_text>", "<end_of_text>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # how open_clip's SimpleTokenizer splits


@dataclass(frozen=True)  # without slots: the tokenizer, which takes 0.1 s to make, is kept
class Documents:
    """In open_clip's keys: config.json, visual/preprocess_cfg.json, textual/tokenizer.json (as text) and its config."""

    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    tokenizer: str
    tokenizer_config: Mapping[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become pixels."""
        return preprocessing(self.preprocess)

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer, reading as the exported model will."""
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "tokenizer.json"
            path.write_text(self.tokenizer, encoding="utf-8")
            return Tokens(tokenizer_config(self.config["text_cfg"], self.tokenizer_config, path))

    def write(self, folder: Path, more: Mapping[str, Any]) -> None:
        """Writes all four, with `more` in config.json."""
        (folder / "textual" / "tokenizer.json").write_text(self.tokenizer, encoding="utf-8")
        files = {
            "config.json": {**self.config, **more},
            "visual/preprocess_cfg.json": self.preprocess,
            "textual/tokenizer_config.json": self.tokenizer_config,
        }
        for name, document in files.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def byte_pair_tokenizer(letters: Sequence[str], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """CLIP's tokenizer: `letters` stand for the 256 bytes, `merges` come by rank. It does what SimpleTokenizer does."""
    joined = ["".join(pair) for pair in merges]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *joined, START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(token, vocabulary[token]) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    return tokenizer
