"""Vespa as a store; `application_package` writes the package of an index, to be deployed by other means."""

from sightline.stores.vespa.package import application_package

__all__ = ("application_package",)
