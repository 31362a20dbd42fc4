"""A large vocabulary kept where single pieces can be looked up, so that a query need not load all of it.

Gemma's tokenizer, which SigLIP 2 uses, has 256,000 pieces and 580,000 merges: two seconds of CPU and 220 MB. What a
text can be cut into consists of its own parts, so a tokenizer of those alone cuts it alike. They lie in a database in a
hidden file beside tokenizer.json, or among what can be made again where that folder can only be read.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.files import default_cache, replacing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_CHARACTERS = 2_000  # beyond these the whole one is quicker
_AT_ONCE = 500
_SCHEMA = """
CREATE TABLE piece (text TEXT PRIMARY KEY, id INTEGER) WITHOUT ROWID;
CREATE TABLE merge (text TEXT, rank INTEGER, size INTEGER, PRIMARY KEY (text, rank)) WITHOUT ROWID;
CREATE TABLE rest (stamp TEXT, document TEXT, longest INTEGER);
"""


class Pieces:
    """The database of one tokenizer.json, made by `keep`."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        name = sha256(str(tokenizer.resolve()).encode()).hexdigest()[:24]
        self._places = tokenizer.with_name(".tokenizer.pieces"), default_cache() / "tokenizers" / name

    def for_texts(self, texts: Sequence[str]) -> "Tokenizer | None":
        """A tokenizer that cuts these texts as the whole one does; None where there is none yet, or it does not pay."""
        if sum(map(len, texts)) > _MOST_CHARACTERS or (place := self._place()) is None:
            return None
        from tokenizers import Tokenizer

        with suppress(sqlite3.Error), closing(_open(place)) as database:
            ((text, longest),) = database.execute("SELECT document, longest FROM rest")
            document = json.loads(text)
            skeleton = Tokenizer.from_str(text)
            parts = set[str]()
            for one in texts:
                plain = skeleton.normalizer.normalize_str(one) if skeleton.normalizer else one
                words = skeleton.pre_tokenizer.pre_tokenize_str(plain) if skeleton.pre_tokenizer else []
                for whole in (plain, *(word for word, _ in words)):
                    parts |= {whole[at : at + size] for at in range(len(whole)) for size in range(1, longest + 1)}
            vocabulary, merges = document["model"]["vocab"], list[tuple[int, list[str]]]()
            wanted = sorted(parts)
            for start in range(0, len(wanted), _AT_ONCE):
                few = wanted[start : start + _AT_ONCE]
                among = f"WHERE text IN ({', '.join('?' * len(few))})"
                vocabulary |= dict(database.execute(f"SELECT text, id FROM piece {among}", few))
                for piece, rank, size in database.execute(f"SELECT text, rank, size FROM merge {among}", few):
                    merges.append((rank, [piece[:size], piece[size:]]))
            document["model"]["merges"] = [merge for _, merge in sorted(merges)]
            return Tokenizer.from_str(json.dumps(document))
        return None

    def keep(self) -> None:
        """Make the database, unless it is there or the tokenizer is of another kind."""
        if self._place() is not None:
            return
        document = json.loads(self._tokenizer.read_text("utf-8"))
        model, special = document["model"], [token["content"] for token in document["added_tokens"]]
        vocabulary: dict[str, int] = model.get("vocab") or {}
        is_plain = model.get("type") == "BPE" and not (
            model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("ignore_merges")
        )
        if not is_plain or not vocabulary.keys() >= set(special):
            return
        always = {*special, model.get("unk_token"), *(f"<0x{byte:02X}>" for byte in range(256))}
        model["vocab"] = {text: at for text, at in vocabulary.items() if text in always}
        merges, model["merges"] = model["merges"], []
        row = self._stamp(), json.dumps(document), max(map(len, vocabulary))
        for place in self._places:
            with suppress(OSError, sqlite3.Error):
                with replacing(place) as part, closing(sqlite3.connect(part)) as database, database:
                    database.executescript(_SCHEMA)
                    database.executemany("INSERT INTO piece VALUES (?, ?)", vocabulary.items())
                    database.executemany("INSERT INTO merge VALUES (?, ?, ?)", _ranked(merges))
                    database.execute("INSERT INTO rest VALUES (?, ?, ?)", row)
                return

    def _place(self) -> Path | None:
        for place in self._places:
            with suppress(sqlite3.Error), closing(_open(place)) as database:
                if database.execute("SELECT stamp FROM rest").fetchone() == (self._stamp(),):
                    return place
        return None

    def _stamp(self) -> str:
        found = self._tokenizer.stat()
        return f"{found.st_size} {found.st_mtime_ns}"


def _open(place: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _ranked(merges: Sequence[Any]) -> Iterator[tuple[str, int, int]]:
    for rank, merge in enumerate(merges):  # older files write "a b"
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left + right, rank, len(left)
