"""Every error that Sightline raises on purpose, as one tree, and what other errors say in short.

    SightlineError
    ├── UsageError: WhereError, PictureNotFound
    ├── SourceError, ExtraMissing, IndexMismatch, ClusterError, TrainingError
    ├── WebError: AddressRefused, WrongContent
    ├── ImageError: ImageTooLarge
    ├── EncoderError: ModelNotFound, ModelDamaged, TextNotSupported, HubUnreachable (HubBusy)
    └── StoreError: StoreNotFound, StoreDamaged, StoreTooNew, StoreBusy, StoreFull, StoreUnreachable, StoreForbidden,
        DimensionMismatch

A message says what happened (with the value) and what to do; what was expected stands between them where it is not
plain from the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sightline.text import printable


def summary(error: BaseException, limit: int = 200) -> str:
    """The first line of what an error says, for a message of our own; the name of its class where it says nothing."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return printable(line)[:limit] or type(error).__name__


@contextmanager
def needing(what: object, extra: str) -> Iterator[None]:
    """Around the import of an optional package: `ExtraMissing` with the extra that brings it, where it is missing."""
    try:
        yield
    except ImportError as error:
        raise ExtraMissing(
            f"{what} needs {error.name!r}, which is not installed: pip install 'sightline[{extra}]'"
        ) from error


class SightlineError(Exception):
    """The base of every error that Sightline raises on purpose."""


class UsageError(SightlineError, ValueError):
    """An invalid argument."""


class WhereError(UsageError):
    """A filter that is not valid."""


class PictureNotFound(UsageError):
    """A picture that is not in the index."""


class SourceError(SightlineError):
    """A folder, file, table or URL that cannot be read."""


class WebError(SightlineError):
    """A URL that cannot be fetched: `reason` in a few words, and the `status` of the answer if there was one.

    `is_transient` says whether another try may succeed.
    """

    def __init__(self, url: str, reason: str, *, status: int | None = None, is_transient: bool = False) -> None:
        super().__init__(f"{url} {reason}")
        self.reason, self.status, self.is_transient = reason, status, is_transient


class AddressRefused(WebError):
    """An address that is not on the open Internet."""


class WrongContent(WebError):
    """A file that is not what its publisher announced."""


class ImageError(SightlineError):
    """One picture that cannot become pixels."""


class ImageTooLarge(ImageError):
    """A picture with more megapixels than the limit."""


class EncoderError(SightlineError):
    """A model that cannot be used."""


class ModelNotFound(EncoderError):
    """No model of that name, or none in that folder."""


class ModelDamaged(EncoderError):
    """A file of the model is missing or not what it should be."""


class HubUnreachable(EncoderError):
    """The model hub does not answer, or offline mode forbids asking it."""


class HubBusy(HubUnreachable):
    """The model hub answers, but not with what was asked for: too many requests, or trouble of its own."""


class TextNotSupported(EncoderError):
    """An image-only encoder was asked for words."""


class ExtraMissing(SightlineError):
    """A feature whose optional packages are not installed."""


class StoreError(SightlineError):
    """A store that cannot be read or written."""


class StoreNotFound(StoreError):
    """Nothing there, or something that is not an index."""


class StoreDamaged(StoreError):
    """A file of the store is truncated, missing or does not match its checksum."""


class StoreTooNew(StoreError):
    """A store written by a newer version of Sightline."""


class StoreBusy(StoreError):
    """Another process holds the store and did not finish in time."""


class StoreFull(StoreError):
    """No room left on the disk."""


class StoreUnreachable(StoreError):
    """A server that does not answer, or no longer."""


class StoreForbidden(StoreError):
    """A server that refuses the credentials."""


class DimensionMismatch(StoreError):
    """Vectors of another length than the store holds."""


class IndexMismatch(SightlineError):
    """An index built by one model and opened with another."""


class ClusterError(SightlineError):
    """A Ray cluster that cannot be reached or used, or that stops."""


class TrainingError(SightlineError):
    """A training run that cannot start, go on or be exported."""
