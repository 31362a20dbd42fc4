"""Labels written into the payload of a whole index: which of them fit each picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sightline.chunks import chunks
from sightline.errors import UsageError
from sightline.stores.base import Store
from sightline.types import Record, Vectors, Where

FIELD = "tags"
"""The payload field, a list of text; `--where tags=cat` finds those with the tag."""

_AT_ONCE = 1024  # records looked at, and at most written, together


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a run did: pictures looked at, pictures whose tags changed, and how many have each label now."""

    seen: int = 0
    changed: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


def tag(
    store: Store,
    labels: Sequence[str],
    probabilities: Callable[[Vectors], Vectors],
    *,
    threshold: float = 0.5,
    top: int | None = None,
    where: Where | None = None,
) -> Tagged:
    """Give each picture the labels of at least that probability, at most the `top` best of them.

    `probabilities` turns (n, dim) into (n, labels). Only these labels are set or removed; other tags of a picture stay.
    What has its tags already is not written again: a run that was interrupted, or one after new pictures came, does the
    rest.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is {threshold}, expected a probability: 0 to 1")
    if top is not None and top < 1:
        raise UsageError(f"top is {top}, expected at least 1")
    done = Tagged(counts=dict.fromkeys(labels, 0))
    for records in chunks(store.scan(where), _AT_ONCE):
        chances = probabilities(np.stack([record.vector for record in records]))  # (n, dim) -> (n, labels)
        chosen = [_chosen(row, labels, threshold, top) for row in chances]
        tagged = [_with_tags(record, labels, tags) for record, tags in zip(records, chosen, strict=True)]
        changed = [new for new, old in zip(tagged, records, strict=True) if new is not old]
        if changed:
            store.upsert(changed)
        counts = {label: done.counts[label] + sum(label in tags for tags in chosen) for label in labels}
        done = Tagged(done.seen + len(records), done.changed + len(changed), counts)
    return done


def _chosen(row: Vectors, labels: Sequence[str], threshold: float, top: int | None) -> list[str]:
    order = np.argsort(-row, kind="stable")[:top]
    return [labels[position] for position in order if row[position] >= threshold]


def _with_tags(record: Record, labels: Sequence[str], chosen: Sequence[str]) -> Record:
    """The record itself where nothing changes."""
    known = record.payload.get(FIELD, [])
    before = known if isinstance(known, list) else [str(known)]
    tags = [tag for tag in before if tag not in labels] + sorted(chosen)
    if tags == before:
        return record
    payload = {name: value for name, value in record.payload.items() if name != FIELD}
    return replace(record, payload={**payload, FIELD: tags} if tags else payload)
