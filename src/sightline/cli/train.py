"""The command train: train or fine-tune a model."""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command, hub
from sightline.text import duration, table

if TYPE_CHECKING:
    from sightline.train.config import Settings
    from sightline.train.distil.settings import DistilSettings
    from sightline.train.run import Listener, Progress

_EXAMPLES = """\
examples:
  sightline train my-pictures.toml              the file is explained in docs/howto/train.md
  sightline search "my cat" --model ./model     what it makes is a model folder like any other
"""


def add_commands(commands: Commands) -> None:
    """Add train."""
    command = add_command(
        commands, "train", train, "train or fine-tune a model on captioned pictures", epilog=_EXAMPLES
    )
    command.add_argument("config", metavar="CONFIG", help="a TOML file with the data, the start and the settings")
    command.add_argument("--base", metavar="DIR", help="the folder that its paths start from (default: the file's own)")
    command.add_argument("--output", metavar="DIR", help="the folder of the model, in place of the file's")
    command.add_argument("--seed", metavar="N", type=int, help="the seed, in place of the file's")
    command.add_argument("--steps", metavar="N", type=int, help="the number of steps, in place of the file's")
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where to compute, in place of the file's",
    )
    command.add_argument(
        "--may-forget", action="store_true", help="export even a model that lost too much on the general set"
    )
    command.add_argument("--json", action="store_true", help="print the outcome as JSON")


def train(options: argparse.Namespace) -> int:
    """Start or continue a training run, and print its outcome."""
    from importlib.util import find_spec

    from sightline.errors import ExtraMissing
    from sightline.train.config import IMAGE_FROZEN, Settings, read_document, record
    from sightline.train.distil.settings import DistilSettings, is_distillation

    document = read_document(Path(options.config))
    settings: Settings | DistilSettings = record(DistilSettings if is_distillation(document) else Settings, document)
    given = {"output": options.output, "seed": options.seed, "device": options.device}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    if options.steps is not None:
        settings = _of_length(settings, options.steps)
    for package in ("torch", "onnx"):
        if find_spec(package) is None:
            raise ExtraMissing(f"training needs {package!r}, which is not installed: pip install 'sightline[train]'")
    base = Path(options.base) if options.base else Path(options.config).parent
    if isinstance(settings, DistilSettings):
        from sightline.train.distil.run import distil

        outcome = distil(settings, base, listen=_listener(), hub=hub())
    else:
        from sightline.train.run import train as run

        outcome = run(settings, base, listen=_listener(), may_forget=options.may_forget, hub=hub())
    if options.json:
        print(json.dumps({"folder": str(outcome.folder), "recalls": outcome.recalls, "share": outcome.share}))
        return 0
    rows = [["set", *next(iter(outcome.recalls.values()), {})]]
    rows += [[name, *(f"{100 * value:.1f}" for value in found.values())] for name, found in outcome.recalls.items()]
    print(table(rows, right=frozenset(range(1, len(rows[0])))))
    if outcome.points:
        print(f"\n{outcome.share:.2f} of the tuned weights, the rest of the start: what each mixture gains and costs")
        path = [{name: f"{value:.3f}" for name, value in asdict(point).items()} for point in outcome.points]
        print(table([list(path[0]), *([*row.values()] for row in path)]))
    print(f"\nuse it: sightline index FOLDER --model {outcome.folder}")
    if isinstance(settings, Settings) and settings.mode in IMAGE_FROZEN and settings.start.model:
        print(f'with an index that {settings.start.model} built: sightline search "..." --model {outcome.folder}')
    return 0


def _of_length(settings: "Settings | DistilSettings", steps: int) -> "Settings | DistilSettings":
    from sightline.train.config import Settings

    if isinstance(settings, Settings):
        return replace(settings, optimiser=replace(settings.optimiser, steps=steps))
    return replace(settings, pictures=replace(settings.pictures, steps=steps))


def _listener() -> "Listener":
    """A bar with loss and time left on a terminal; elsewhere a line for each measurement."""
    if not sys.stderr.isatty():
        return _lines
    from tqdm import tqdm

    bar = tqdm(unit=" steps", dynamic_ncols=True)

    def show(progress: "Progress") -> None:
        if progress.note:
            bar.write(progress.note, file=sys.stderr)
            return
        bar.total = progress.steps
        bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        bar.update(progress.step - bar.n)
        if progress.recalls:
            bar.write(_measured(progress), file=sys.stderr)
        if progress.step == progress.steps:
            bar.close()

    return show


def _lines(progress: "Progress") -> None:
    if progress.note or progress.recalls:
        print(progress.note or _measured(progress), file=sys.stderr, flush=True)


def _measured(progress: "Progress") -> str:
    parts = [f"{name} {100 * found['text_to_image@10']:.1f}" for name, found in progress.recalls.items()]
    if not progress.step:
        return f"before the first step: recall@10 {', '.join(parts)}"
    left = duration(progress.remaining_s)
    return (
        f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}, recall@10 {', '.join(parts)}, {left} left"
    )
