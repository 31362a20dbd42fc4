"""Label pictures without training: the probability of each label, and labels as tags of a whole index."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.base import Encoder
from sightline.errors import UsageError
from sightline.stores.base import Store
from sightline.types import Record, Vectors, Where, chunks

_SCALE = 100.0
"""What CLIP's learned temperature converges to (Radford et al. 2021, section 2.5), for models that name none."""

_TEXTS = 512  # label texts encoded at a time: 1,000 labels in 8 templates are 8,000

TEMPLATES: Mapping[str, Sequence[str]] = {
    "name": ("{}",),
    "photo": ("a photo of {}",),
    "ensemble": (
        "{}",
        "a photo of a {}",
        "a close-up of a {}",
        "a small {} in the distance",
        "a picture of one {}",
        "a {} seen from the side",
        "a dark photo of the {}",
        "a bright photo of the {}",
    ),
    "drawing": ("a drawing of a {}", "a painting of a {}", "a sketch of a {}", "a cartoon of a {}"),
}
"""Sets of templates by name. Several templates of one label are averaged, which evens out what each adds."""

TAGS = "tags"
"""The payload field, a list of text; `--where tags=cat` finds those with the tag."""

_RECORDS = 1024  # records looked at, and at most written, together


def classify(
    vectors: Vectors, labels: Sequence[str], encoder: Encoder, *, templates: Sequence[str] = TEMPLATES["photo"]
) -> NDArray[np.float32]:
    """(n, dim) picture vectors -> (n, labels) probabilities; see `probabilities` and `label_vectors`."""
    return probabilities(vectors, label_vectors(labels, encoder, templates), encoder)


def label_vectors(labels: Sequence[str], encoder: Encoder, templates: Sequence[str]) -> Vectors:
    """(labels, dim): for each label the mean of its templates' unit vectors, at norm 1.

    Prompt ensembles as in Radford et al. 2021, section 3.1.4.
    """
    if len(set(labels)) < 2:
        raise UsageError(f"the labels are {list(labels)!r}, expected at least two different ones: add another")
    if without := [template for template in templates if "{}" not in template]:
        raise UsageError(f"the template is {without[0]!r}, expected {{}} where the label goes")
    if not templates:
        raise UsageError("no template is given: try 'a photo of {}'")
    texts = [template.replace("{}", label) for label in labels for template in templates]
    parts = [encoder.encode_texts(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
    each = np.concatenate(parts).reshape(len(labels), len(templates), -1)  # -> (labels, templates, dim)
    means = each.mean(axis=1)  # -> (labels, dim)
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), np.float32)


def probabilities(vectors: Vectors, labels: Vectors, encoder: Encoder) -> NDArray[np.float32]:
    """(n, dim) pictures and (labels, dim) -> (n, labels), as the model was trained to give them.

    Softmax of scaled cosines, each row of sum 1, for the CLIP family (Radford et al. 2021, section 3.1). For models
    with a bias, the SigLIP family, the sigmoid of scaled and shifted cosines: each label on its own, so that several
    may fit or none (Zhai et al. 2023, arXiv:2303.15343, equation 1).
    """
    scale, bias = getattr(encoder, "logit_scale", None) or _SCALE, getattr(encoder, "logit_bias", None)
    logits = np.float32(scale) * (vectors @ labels.T)  # (n, dim) @ (dim, labels) -> (n, labels)
    if bias is not None:
        return np.asarray(1 / (1 + np.exp(-np.clip(logits + np.float32(bias), -80, 80))), np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a run did: pictures looked at, pictures whose tags changed, and how many have each label now."""

    seen: int = 0
    changed: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


def tag_pictures(
    store: Store,
    labels: Sequence[str],
    probabilities: Callable[[Vectors], Vectors],
    *,
    threshold: float = 0.5,
    top: int | None = None,
    where: Where | None = None,
) -> Tagged:
    """Give each picture the labels of at least that probability, at most the `top` best.

    `probabilities` turns (n, dim) into (n, labels). Only these labels are set or removed; other tags of a picture stay.
    What has its tags already is not written again: a run that was interrupted, or one after new pictures came, does the
    rest.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is {threshold}, expected a probability: 0 to 1")
    if top is not None and top < 1:
        raise UsageError(f"top is {top}, expected at least 1")
    done = Tagged(counts=dict.fromkeys(labels, 0))
    for records in chunks(store.scan(where), _RECORDS):
        shares = probabilities(np.stack([record.vector for record in records]))  # (n, dim) -> (n, labels)
        chosen = [_chosen(row, labels, threshold, top) for row in shares]
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
    known = record.payload.get(TAGS, [])
    before = known if isinstance(known, list) else [str(known)]
    tags = [tag for tag in before if tag not in labels] + sorted(chosen)
    if tags == before:
        return record
    payload = {name: value for name, value in record.payload.items() if name != TAGS}
    return replace(record, payload={**payload, TAGS: tags} if tags else payload)
