"""Models of other libraries as encoders that run in torch, an extra; each family has a file with a `load`."""

from importlib.util import find_spec

from sightline.errors import ExtraMissing


def needed(*packages: str) -> None:
    """Raises `ExtraMissing` naming the first package that is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ExtraMissing(
                f"this model needs {package!r}, which is not installed, expected the packages of the extra: "
                "pip install 'sightline[torch]'"
            )
