"""Run benchmarks: python -m benchmarks [NAME ...] [ARGUMENTS]; without a name, all of them in turn."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def main() -> int:
    """Run each as a process of its own, so that none measures another's memory."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments or (arguments and arguments[0] not in NAMES):
        print(f"{__doc__}\nknown: {', '.join(NAMES)}")
        return 2 if arguments and not arguments[0].startswith("-") else 0
    names = [argument for argument in arguments if argument in NAMES] or NAMES
    rest = [argument for argument in arguments if argument not in NAMES]
    codes = []
    for name in names:
        print(f"== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *rest], check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
