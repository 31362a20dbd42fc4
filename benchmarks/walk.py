"""Count the functions and files of Sightline that one search and one added picture pass through.

    python benchmarks/walk.py [--list]

Traced with `sys.setprofile` in every thread, in a fresh process each, on a small index with the bundled model.
Functions called while modules are imported do not count: they are the price of a start, not of the walk.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import sightline

_PACKAGE = str(Path(sightline.__file__).parent)
_TRACER = """
import json, sys, threading
package, action, index, picture = sys.argv[1:5]
passed = {}
def profile(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package) and not code.co_name.startswith("<"):
        is_class_body = "__module__" in code.co_names and "__qualname__" in code.co_names
        if not is_class_body:
            passed[code.co_filename[len(package) + 1:], code.co_qualname, code.co_firstlineno] = 1
from sightline.cli.main import main
from sightline.index import Index
if action == "search":
    threading.setprofile(profile), sys.setprofile(profile)
    main(["search", "a red car", "--index", index])
else:
    opened = Index(index)
    threading.setprofile(profile), sys.setprofile(profile)
    opened.add(picture)
sys.setprofile(None)
print(json.dumps([list(key) for key in passed]))
"""


def walked(action: str, index: Path, picture: Path) -> list[tuple[str, str]]:
    """The files and functions that an action passes."""
    import json

    command = [sys.executable, "-c", _TRACER, _PACKAGE, action, str(index), str(picture)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [(file, name) for file, name, _ in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Trace both and print what was passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the functions, too")
    options = parser.parse_args()
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        pictures, index = Path(folder) / "pictures", Path(folder) / "photos.index"
        pictures.mkdir()
        for number in range(3):
            Image.new("RGB", (64, 64), (80 * number, 40, 90)).save(pictures / f"{number}.png")
        with sightline.open(str(index), model="mini") as opened:
            opened.add(pictures)
        Image.new("RGB", (64, 64), "green").save(Path(folder) / "new.png")
        for action in ("search", "add"):
            passed = walked(action, index, Path(folder) / "new.png")
            files = Counter(file for file, _ in passed)
            print(f"{action}: {len(passed)} functions in {len(files)} files")
            if options.list:
                for file in files:
                    names = ", ".join(name for where, name in passed if where == file)
                    print(f"  {file}: {names}")


if __name__ == "__main__":
    main()
