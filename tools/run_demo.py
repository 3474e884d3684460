#!/usr/bin/env python
"""The whole way on the demo data: draw it, train on it, evaluate, draw the predictions.

`make demo` runs this. A second run keeps the data set and does the rest anew.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# On a busy small machine threads that spin while they wait take the cores of those that work;
# asleep at once they take too long to wake. Some twenty microseconds are a good middle.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from axial_d2.data import make_demo_dataset, read_image
from axial_d2.data.synthetic import SPLITS, SplitPaths
from axial_d2.engine import Trainer
from axial_d2.engine.setup import setup
from axial_d2.visualization import comparison, contact_sheet
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, HookBase
from PIL import Image
from torch import nn
from tqdm import tqdm

Results = dict[str, dict[str, float]]

CONFIG = Path(__file__).parents[1] / "configs" / "demo" / "axial_deeplab_demo.yaml"
NUM_PICTURES = 12
# What a new run would append to, or leave beside its own.
OLD_FILES = (
    "results.json",
    "pictures/*.png",
    *(f"training/{name}" for name in ("log.txt", "metrics.json", "events.*", "*.pth")),
)
# Name of a figure → the keys it has in the results.
FIGURES = {
    "PQ": ("panoptic_seg", "PQ"),
    "SQ": ("panoptic_seg", "SQ"),
    "RQ": ("panoptic_seg", "RQ"),
    "mIoU": ("sem_seg", "mIoU"),
    "mask AP": ("segm", "AP"),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/demo"), help="folder; default: output/demo")
    add("--config-file", default=str(CONFIG), metavar="FILE", help="another for the same data")
    add("--seed", type=int, default=0, help="of the data set; default: 0")
    add("--num-train", type=int, default=800, help="images to train on; default: 800")
    add("--num-val", type=int, default=120, help="images to evaluate on; default: 120")
    add("--max-iter", type=int, help="iterations of training; default: the config's")
    add("--force", action="store_true", help="replace another data set in the folder")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options, last")
    return parser.parse_args(arguments)


def heading(step: str, where: str | Path) -> None:
    print(f"\n{step}: {where}", flush=True)


def build_dataset(args: argparse.Namespace, root: Path) -> None:
    """Draws the data set, unless it is there; one that was interrupted is drawn anew."""
    unfinished = root / ".unfinished"
    if not root.exists():
        root.mkdir(parents=True)
        unfinished.touch()
    force = args.force or unfinished.exists()
    counts = (args.num_train, args.num_val)
    if not make_demo_dataset(root, args.seed, *counts, force=force, progress=True):
        print("it is there already")
    unfinished.unlink(missing_ok=True)


def demo_config(args: argparse.Namespace, dataset: Path, training: Path) -> CfgNode:
    """The config with this run's folders; Detectron2's log goes to a file, errors also here."""
    registered = [
        [f"axial_d2_demo_{s.split}", *map(str, (s.images, s.panoptic, s.panoptic_json))]
        for s in (SplitPaths.of(dataset, split) for split in SPLITS)
    ]
    opts = ["DATASETS.PANOPTIC", repr(registered), "OUTPUT_DIR", str(training)]
    if args.max_iter is not None:
        opts += ["SOLVER.MAX_ITER", str(args.max_iter)]
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        cfg = setup(argparse.Namespace(config_file=args.config_file, opts=opts + args.opts))
    for name in ("detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is console:
                handler.setStream(sys.stderr)
                handler.setLevel(logging.ERROR)
    return cfg


class ProgressHook(HookBase):
    """One line with the iteration, the remaining time and the loss."""

    def before_train(self) -> None:
        self._bar = tqdm(total=self.trainer.max_iter, unit="iteration", mininterval=1)

    def after_step(self) -> None:
        loss = self.trainer.storage.history("total_loss").latest()
        self._bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._bar.close()


class DemoTrainer(Trainer):
    """The trainer, with its progress on the console."""

    def build_hooks(self) -> list[HookBase]:
        return [ProgressHook(), *super().build_hooks()]

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return tqdm(super().build_test_loader(cfg, dataset_name), unit="image")

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Results:
        heading("Evaluation", f"{', '.join(cfg.DATASETS.TEST)}, which training never sees")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            return super().test(cfg, model, evaluators)


def draw_pictures(cfg: CfgNode, folder: Path) -> None:
    """Draws predictions beside ground truth, evenly spread over the validation images."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    predictor = DefaultPredictor(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    name = cfg.DATASETS.TEST[0]
    dicts, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    count = min(NUM_PICTURES, len(dicts))
    pictures = []
    for index in tqdm(range(count), unit="image"):
        record = dicts[index * len(dicts) // count]
        image = read_image(record["file_name"], "RGB")
        pictures.append(comparison(image, predictor(image[:, :, ::-1]), record, metadata))
        Image.fromarray(pictures[-1]).save(folder / f"{Path(record['file_name']).stem}.png")
    Image.fromarray(contact_sheet(pictures)).save(folder / "overview.png")


def as_json(results: Results) -> str:
    """Valid JSON: not-a-number (a class without any pixel, for instance) becomes null."""
    finite = {
        task: {key: float(value) if math.isfinite(value) else None for key, value in row.items()}
        for task, row in results.items()
    }
    return json.dumps(finite, indent=2, allow_nan=False) + "\n"


def prepare(args: argparse.Namespace) -> CfgNode:
    heading("Data set", args.output / "dataset")
    build_dataset(args, args.output / "dataset")
    for pattern in OLD_FILES:
        for old in args.output.glob(pattern):
            old.unlink()
    return demo_config(args, args.output / "dataset", args.output / "training")


def run(cfg: CfgNode, output: Path) -> None:
    heading("Training", f"{cfg.SOLVER.MAX_ITER} iterations, log in {output / 'training/log.txt'}")
    trainer = DemoTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results  # of the evaluation that ends the training
    (output / "results.json").write_text(as_json(results), encoding="utf-8")
    heading("Pictures", output / "pictures")
    draw_pictures(cfg, output / "pictures")
    print()
    for name, (task, key) in FIGURES.items():
        print(f"{name:8}{results.get(task, {}).get(key, math.nan):5.1f}")
    print(f"All figures: {output / 'results.json'}")
    print(f"Predictions beside ground truth: {output / 'pictures'}, all in overview.png")


def main(arguments: list[str] | None = None) -> int:
    start = time.monotonic()
    args = parse_arguments(arguments)
    try:
        cfg = prepare(args)
    except (ValueError, OSError) as error:
        print(f"run_demo: {error}", file=sys.stderr)
        return 1
    run(cfg, args.output)
    print(f"Took {(time.monotonic() - start) / 60:.1f} minutes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
