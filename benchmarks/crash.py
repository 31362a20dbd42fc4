"""The long forms of the tests that kill, corrupt and exhaust: a hundred kills at random moments, and the like.

python -m benchmarks crash
"""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "--slow", "-m", "slow and not shared", "-p", "no:cacheprovider", "tests"]))
