"""A Vespa application turned into a store, through pyvespa.

`open_url` opens or deploys an index; `application_package` writes the package of one, to be deployed by other means.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from sightline.errors import ExtraMissing

if find_spec("vespa") is None:
    raise ExtraMissing("Vespa needs the package 'pyvespa', which is not installed: pip install 'sightline[vespa]'")

from sightline.stores.vespa.opening import open_url
from sightline.stores.vespa.package import application_package
from sightline.stores.vespa.store import VespaStore

__all__: Sequence[str] = ("VespaStore", "application_package", "open_url")
