"""The commands train, caption and export: what runs in torch."""

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.options import Commands, add_command, hub, need, positive, progress_bar, show
from sightline.text import count, duration, printable, size, table

if TYPE_CHECKING:
    from sightline.train.captions import CaptionProgress
    from sightline.train.run import Listener, Progress

_BLIP = "blip:Salesforce/blip-image-captioning-base"


def add_commands(commands: Commands) -> None:
    """Add caption, train and export."""
    add = add_command(commands, caption, "json").add_argument
    add("folder", metavar="DIR", help="a folder of pictures, with all below it")
    add("--output", metavar="FILE", default="captions.tsv", help="the table (default: captions.tsv); it is added to")
    add("--model", metavar="NAME", default=_BLIP, help="a captioning model, see below")
    add("--batch", metavar="N", type=positive, default=8, help="pictures at a time (default: 8)")
    add = add_command(commands, train, "json").add_argument
    add("config", metavar="CONFIG", help="a TOML file with the data, the start and the settings")
    add("--base", metavar="DIR", help="the folder that its paths start from (default: the file's own)")
    add("--output", metavar="DIR", help="the folder of the model, in place of the file's")
    add("--seed", metavar="N", type=int, help="the seed, in place of the file's")
    add("--steps", metavar="N", type=int, help="the number of steps, in place of the file's")
    devices = ("auto", "cpu", "cuda")
    add("--device", choices=devices, help="where to compute, in place of the file's")
    add("--may-forget", action="store_true", help="export even a model that lost too much on the general set")
    add = add_command(commands, export, "json").add_argument
    add(
        "source",
        metavar="SOURCE",
        help="open_clip:ARCHITECTURE/WEIGHTS, hf:NAME, timm:NAME, dinov2:SIZE, simclr:FILE, st:NAME, a folder that "
        "open_clip or transformers saved, or a training run's folder",
    )
    add("--output", metavar="DIR", required=True, help="the folder of the model")
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="int8: a quarter of the size, faster on a CPU; fp16: half the size, for a GPU (default: fp32)",
    )
    add(
        "--pictures",
        metavar="PATH",
        help="a folder of pictures or a captions table to compare on (default: generated pictures)",
    )
    add("--images", metavar="DIR", help="the folder of the table's pictures (default: beside it)")


def caption(options: argparse.Namespace) -> int:
    """Write captions for pictures that have none, by a local model.

    models:
      blip:Salesforce/blip-image-captioning-base        BLIP, 990 MB, BSD-3-Clause: the default
      blip:Salesforce/blip-image-captioning-large       better and slower, 1.9 GB, BSD-3-Clause
      coca:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k    CoCa of open_clip, MIT
      ./folder                                          a BLIP model as transformers saves it

    Examples:
      sightline caption photos                          writes captions.tsv; again after changes, only new ones
      sightline evaluate captions.tsv --images photos   reads it, as training does
    """
    need("captioning", "caption", "torch", "open_clip" if options.model.startswith("coca:") else "transformers")
    here = hub()
    if here.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the libraries' own switch; they read it when they are imported
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from sightline.sources.base import open_source
    from sightline.train import captions

    open_source(options.folder)  # a wrong folder is said before a model is loaded
    captioner = captions.load_captioner(options.model, hub=here)
    with progress_bar(" pictures") as bar:

        def listen(done: "CaptionProgress") -> None:
            bar.total = done.total - done.kept
            bar.update(done.written + len(done.failed) - bar.n)

        output = Path(options.output)
        done = captions.caption(Path(options.folder), output, captioner, batch_size=options.batch, listen=listen)
    for uri, reason in done.failed:
        print(f"{printable(uri)}\n    {printable(reason)}", file=sys.stderr)
    parts = [f"{count(done.written, 'picture')} captioned"]
    parts += [f"{done.kept:,} had one already"] if done.kept else []
    parts += [f"{len(done.failed):,} could not be read"] if done.failed else []
    failed = [{"uri": uri, "reason": reason} for uri, reason in done.failed]
    plain = {"table": options.output, "written": done.written, "kept": done.kept, "failed": failed}
    return show(options, plain, f"{', '.join(parts)}: {options.output}")


def train(options: argparse.Namespace) -> int:
    """Train or fine-tune a model on captioned pictures.

    Examples:
      sightline train my-pictures.toml              the file is explained in docs/howto/train.md
      sightline search "my cat" --model ./model     what it makes is a model folder like any other
    """
    from sightline.train.config import IMAGE_FROZEN, Settings, read_document, record
    from sightline.train.distil.settings import DistilSettings, is_distillation

    document = read_document(Path(options.config))
    settings: Settings | DistilSettings = record(DistilSettings if is_distillation(document) else Settings, document)
    given = {"output": options.output, "seed": options.seed, "device": options.device}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    if options.steps is not None and isinstance(settings, Settings):
        settings = replace(settings, optimiser=replace(settings.optimiser, steps=options.steps))
    elif options.steps is not None and isinstance(settings, DistilSettings):
        settings = replace(settings, pictures=replace(settings.pictures, steps=options.steps))
    need("training", "train", "torch", "onnx")
    base = Path(options.base) if options.base else Path(options.config).parent
    if isinstance(settings, DistilSettings):
        from sightline.train.distil.run import distil

        outcome = distil(settings, base, listen=_listener(), hub=hub())
    else:
        from sightline.train.run import train as run

        outcome = run(settings, base, listen=_listener(), may_forget=options.may_forget, hub=hub())
    rows = [["set", *next(iter(outcome.recalls.values()), {})]]
    rows += [[name, *(f"{100 * value:.1f}" for value in found.values())] for name, found in outcome.recalls.items()]
    lines = [table(rows, right=frozenset(range(1, len(rows[0]))))]
    if outcome.points:
        rest = "the rest of the start: what each mixture gains and costs"
        lines.append(f"\n{outcome.share:.2f} of the tuned weights, {rest}")
        path = [{name: f"{value:.3f}" for name, value in asdict(point).items()} for point in outcome.points]
        lines.append(table([list(path[0]), *([*row.values()] for row in path)]))
    lines.append(f"\nuse it: sightline index FOLDER --model {outcome.folder}")
    if isinstance(settings, Settings) and settings.mode in IMAGE_FROZEN and settings.start.model:
        search = f'sightline search "..." --model {outcome.folder}'
        lines.append(f"with an index that {settings.start.model} built: {search}")
    plain = {"folder": str(outcome.folder), "recalls": outcome.recalls, "share": outcome.share}
    return show(options, plain, "\n".join(lines))


def _listener() -> "Listener":
    """A bar with loss and time left on a terminal; elsewhere a line for each measurement."""
    bar = progress_bar(" steps", leave=True)

    def listen(progress: "Progress") -> None:
        if progress.note or progress.recalls:
            bar.write(progress.note or _measured(progress), file=sys.stderr)
        if progress.note:
            return
        bar.total = progress.steps
        bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        bar.update(progress.step - bar.n)
        if progress.step == progress.steps:
            bar.close()

    return listen


def _measured(progress: "Progress") -> str:
    parts = [f"{name} {100 * found['text_to_image@10']:.1f}" for name, found in progress.recalls.items()]
    if not progress.step:
        return f"before the first step: recall@10 {', '.join(parts)}"
    recall, left = f"recall@10 {', '.join(parts)}", duration(progress.remaining_s)
    return f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}, {recall}, {left} left"


def export(options: argparse.Namespace) -> int:
    """Write a torch model as a model folder.

    Examples:
      sightline export open_clip:ViT-B-32/laion2b_s34b_b79k --output clip-b32 --precision int8 --pictures captions.tsv
      sightline export open_clip:ViT-B-32/./epoch_10.pt --output mine      a checkpoint of open_clip
      sightline export timm:resnet50 --output resnet50                     a model of pictures alone
      sightline export hf:./siglip --output siglip --pictures photos       a folder that transformers saved
      sightline search "my cat" --model ./clip-b32                        what it makes is a model folder as any other
    """
    need("export", "torch", "torch", "onnx")
    from sightline.train.export import convert

    report = convert(
        options.source,
        Path(options.output),
        options.precision,
        pictures=Path(options.pictures) if options.pictures else None,
        images=Path(options.images) if options.images else None,
        hub=hub(),
        say=lambda note: print(note, file=sys.stderr, flush=True),
    )
    what = "generated pictures (give --pictures for your own)" if report.is_generated else "pictures"
    lines = [f"cosine to the torch model, on {report.pictures:,} {what} and {report.texts:,} texts"]
    rows = [["", "size", "images: min", "1 %", "median", "texts: min", "1 %", "median"]]
    for name, entry in report.precisions.items():
        both = [entry["image_cosine"], entry["text_cosine"]]
        cosines = [f"{value:.4f}" for found in both if found for value in found.values()]
        rows.append([name, size(entry["size_bytes"]), *cosines, *[""] * (6 - len(cosines))])
    lines.append(table(rows, right=frozenset(range(1, 8))))
    if report.recall is not None:
        recalls = {"torch": report.recall} | {name: entry["recall"] for name, entry in report.precisions.items()}
        percents = [[name, *(f"{100 * value:.1f}" for value in found.values())] for name, found in recalls.items()]
        lines += [
            "\nrecall in %",
            table([["", *report.recall], *percents], right=frozenset(range(1, len(percents[0])))),
        ]
    folder = options.output if "/" in options.output else f"./{options.output}"
    return show(options, asdict(report), "\n".join([*lines, f"\nuse it: sightline index FOLDER --model {folder}"]))
