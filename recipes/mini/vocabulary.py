"""A WordPiece tokenizer cut down to the words that are used."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def prune(tokenizer: Tokenizer, texts: Iterable[str], *, size: int) -> tuple[Tokenizer, list[int]]:
    """A WordPiece tokenizer of `size` tokens, and the old id of each of its tokens.

    Kept are the special tokens, what `texts` use, then plain ASCII tokens in the order of the old vocabulary,
    which BERT sorted by frequency. A word that lost its token is spelled in pieces.
    """
    old = dict(tokenizer.get_vocab())
    used = {token for encoding in tokenizer.encode_batch(list(texts)) for token in encoding.tokens}
    single = {token for token in old if len(token.removeprefix("##")) == 1 and token.isascii()}
    common = (
        token for token in sorted(old, key=old.__getitem__) if token.isascii() and not token.startswith("[unused")
    )
    ordered = dict.fromkeys([*SPECIAL_TOKENS, *sorted(used | single, key=old.__getitem__), *common])
    kept = list(ordered)[:size]
    document = json.loads(tokenizer.to_str())
    document["model"]["vocab"] = {token: n for n, token in enumerate(kept)}
    document["added_tokens"] = [
        entry | {"id": kept.index(entry["content"])} for entry in document["added_tokens"] if entry["content"] in kept
    ]
    _renumber(document["post_processor"], kept)
    document["padding"] = document["truncation"] = None
    return Tokenizer.from_str(json.dumps(document)), [old[token] for token in kept]


def _renumber(processor: dict[str, object], kept: Sequence[str]) -> None:
    """Gives the special tokens of a template post-processor their new ids."""
    special = processor.get("special_tokens")
    if isinstance(special, dict):
        for entry in special.values():
            entry["ids"] = [kept.index(token) for token in entry["tokens"]]
    for name in ("sep", "cls"):
        pair = processor.get(name)
        if isinstance(pair, list):
            pair[1] = kept.index(pair[0])
