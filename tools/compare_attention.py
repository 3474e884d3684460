#!/usr/bin/env python
"""Dual attention and attention to scale against their baselines, over several seeds.

tools/compare_attention.py [--output output/attention] [--seeds 1 2 3]     trains, then reports
tools/compare_attention.py --report docs                                   what there is so far

Three experiments: DANet's head with and without its attention layers; three scales merged by
attention, average or maximum, and a single scale; the same on scenes whose things differ a lot in
size. Every training is a config of configs/demo. What was trained already is not trained again,
so a call that was stopped goes on with the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from axial_d2.analysis.scale_sizes import ObjectWeights, object_weights
from axial_d2.data import make_demo_dataset, read_image
from axial_d2.engine import StrictCheckpointer, Trainer
from axial_d2.engine.attention_pictures import AttentionPainter
from axial_d2.engine.attention_report import Residual, Row, Table, write_report
from axial_d2.engine.comparison import demo_dataset_options
from axial_d2.engine.setup import load_config, setup
from axial_d2.visualization import contact_sheet
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "demo"


@dataclass(frozen=True)
class Experiment:
    """Trainings that are compared with each other.

    Attributes:
        name: of the experiment, and of its folder.
        configs: folder of configs/demo.
        kinds: configs; the first is the one that the others are baselines of.
        title, caption: of its table, and of the picture of its first kind.
        varied_sizes: whether the things of the scenes differ a lot in size.
    """

    name: str
    configs: str
    kinds: tuple[str, ...]
    title: str
    caption: str
    varied_sizes: bool = False

    @property
    def dataset(self) -> str:
        return "varied_sizes" if self.varied_sizes else "demo"


SCALE_KINDS = ("attention", "average", "maximum", "single_scale")
SCALE_CAPTION = "from left to right: prediction, and the weight of each scale, dark 0 to bright 1"
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "dual_attention",
            "dual_attention",
            ("dual_attention", "convolutions"),
            "DANet's head",
            "Dual attention, from left to right: prediction, what the positions under the crosses "
            "attend to, and two channels behind the channel attention",
        ),
        Experiment(
            "scale_attention_sizes",
            "scale_attention",
            SCALE_KINDS,
            "Attention to scale, things of very different sizes",
            f"Attention to scale on things of very different sizes, {SCALE_CAPTION}",
            varied_sizes=True,
        ),
        Experiment(
            "scale_attention",
            "scale_attention",
            SCALE_KINDS,
            "Attention to scale, the usual scenes",
            f"Attention to scale on the usual scenes, {SCALE_CAPTION}",
        ),
    )
}
NUM_PICTURES = 4


@dataclass(frozen=True)
class Training:
    """One training and its evaluation.

    Attributes:
        experiment, kind, seed: which one.
        settings: what has to be the same for all: iterations, images.
        results: of the semantic evaluator on the validation images, in percent.
        threads: of PyTorch.
        seconds: wall-clock, of the training with its evaluation.
    """

    experiment: str
    kind: str
    seed: int
    settings: dict[str, int]
    results: dict[str, float]
    threads: int
    seconds: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "output" / "attention", help="working folder")
    add("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="NAME")
    add("--kinds", nargs="+", metavar="KIND", help="of these alone; default: all")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of trainings; default: 1 2 3")
    add("--max-iter", type=int, help="iterations of each training; default: the configs'")
    add("--num-train", type=int, default=800, help="images to train on; default: 800")
    add("--num-val", type=int, default=120, help="images to evaluate on; default: 120")
    add("--report", type=Path, metavar="FOLDER", help="only write the document and pictures there")
    return parser.parse_args(arguments)


def folder_of(experiment: Experiment, kind: str, seed: int, args: argparse.Namespace) -> Path:
    return args.output / experiment.name / f"{kind}_{seed}"


def config_of(
    experiment: Experiment, kind: str, seed: int, args: argparse.Namespace, train: bool = False
) -> CfgNode:
    """The config of a training, its data sets registered; to ``train``, with a log and seeds."""
    dataset = f"axial_d2_{experiment.dataset}"
    opts = demo_dataset_options(args.output / experiment.dataset, dataset)
    opts += ["SEED", str(seed)]
    opts += ["DATASETS.TRAIN", f"('{dataset}_train',)", "DATASETS.TEST", f"('{dataset}_val',)"]
    opts += ["OUTPUT_DIR", str(folder_of(experiment, kind, seed, args))]
    if args.max_iter is not None:
        opts += ["SOLVER.MAX_ITER", str(args.max_iter)]
    config = str(CONFIGS / experiment.configs / f"{kind}.yaml")
    if train:
        return setup(argparse.Namespace(config_file=config, opts=opts))
    return load_config(config, opts)


def train(experiment: Experiment, kind: str, seed: int, args: argparse.Namespace) -> Training:
    with contextlib.redirect_stdout(io.StringIO()):  # Detectron2's log is in OUTPUT_DIR/log.txt
        cfg = config_of(experiment, kind, seed, args, train=True)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return Training(
        experiment=experiment.name,
        kind=kind,
        seed=seed,
        settings=settings_of(args),
        # Of the evaluation that ends the training.
        results=dict(trainer._last_eval_results["sem_seg"]),
        threads=torch.get_num_threads(),
        seconds=seconds,
    )


def settings_of(args: argparse.Namespace) -> dict[str, int]:
    return {name: getattr(args, name) for name in ("max_iter", "num_train", "num_val")}


def finished(
    experiment: Experiment, kind: str, seed: int, args: argparse.Namespace
) -> Training | None:
    file = folder_of(experiment, kind, seed, args) / "training.json"
    if not file.is_file():
        return None
    training = Training(**json.loads(file.read_text(encoding="utf-8")))
    return training if training.settings == settings_of(args) else None


def wanted(args: argparse.Namespace) -> list[tuple[Experiment, str, int]]:
    """Every training, seed by seed, so that all experiments have the first seeds first."""
    return [
        (EXPERIMENTS[name], kind, seed)
        for seed in args.seeds
        for name in args.experiments
        for kind in EXPERIMENTS[name].kinds
        if args.kinds is None or kind in args.kinds
    ]


def train_all(args: argparse.Namespace) -> None:
    for varied_sizes in sorted({EXPERIMENTS[name].varied_sizes for name in args.experiments}):
        root = args.output / ("varied_sizes" if varied_sizes else "demo")
        make_demo_dataset(root, 0, args.num_train, args.num_val, varied_sizes=varied_sizes)
    for experiment, kind, seed in wanted(args):
        training = finished(experiment, kind, seed, args)
        if training is None:
            training = train(experiment, kind, seed, args)
            document = json.dumps(asdict(training), indent=2) + "\n"
            file = folder_of(experiment, kind, seed, args) / "training.json"
            file.write_text(document, encoding="utf-8")
        label = f"{experiment.name}, {kind}, seed {seed}"
        print(f"{label}: mIoU {training.results['mIoU']:.1f}, {training.seconds:.0f} s", flush=True)


def report(args: argparse.Namespace, folder: Path) -> Path | None:
    """The document of what is trained so far, with pictures of the first seed; None of nothing."""
    results: dict[tuple[str, str], dict[int, float]] = {}
    for experiment, kind, seed in wanted(args):
        training = finished(experiment, kind, seed, args)
        if training is not None:
            scores = results.setdefault((experiment.name, kind), {})
            scores[seed] = training.results["mIoU"]
    if not results:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    tables = [
        Table(
            experiment.title,
            text_of(experiment, args),
            [
                row_of(experiment, kind, results[experiment.name, kind])
                for kind in experiment.kinds
                if (experiment.name, kind) in results
            ],
        )
        for experiment in EXPERIMENTS.values()
        if any(name == experiment.name for name, _ in results)
    ]
    sizes = {
        seed: sizes_of(EXPERIMENTS["scale_attention_sizes"], seed, args)
        for seed in results.get(("scale_attention_sizes", "attention"), {})
    }
    residuals = {
        seed: residual_of(EXPERIMENTS["dual_attention"], seed, score, args)
        for seed, score in results.get(("dual_attention", "dual_attention"), {}).items()
    }
    pictures = {}
    for experiment in EXPERIMENTS.values():
        seeds = results.get((experiment.name, experiment.kinds[0]))
        if seeds:
            seed = min(seeds)
            file = folder / f"{experiment.name}.jpg"
            Image.fromarray(draw(experiment, seed, args)).save(file, quality=88)
            pictures[file.name] = experiment.caption
    return write_report(folder, tables, residuals, sizes, pictures)


def text_of(experiment: Experiment, args: argparse.Namespace) -> str:
    cfg = config_of(experiment, experiment.kinds[0], 0, args)
    data = "with things of very different sizes" if experiment.varied_sizes else "as they are"
    return (
        f"{args.num_train} scenes of the demo {data}, {cfg.SOLVER.MAX_ITER} iterations of "
        f"{cfg.SOLVER.IMS_PER_BATCH} crops of {cfg.INPUT.CROP.SIZE[0]} pixels; mIoU in percent on "
        f"{args.num_val} others. The spread is the standard deviation over the seeds."
    )


def row_of(experiment: Experiment, kind: str, scores: dict[int, float]) -> Row:
    file = CONFIGS / experiment.configs / f"{kind}.yaml"
    what = file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip(".")
    return Row(kind, str(file.relative_to(ROOT)), what, scores)


def trained_model(
    experiment: Experiment, seed: int, args: argparse.Namespace
) -> tuple[CfgNode, Any]:
    cfg = config_of(experiment, experiment.kinds[0], seed, args)
    model = Trainer.build_model(cfg)
    StrictCheckpointer(model).load(str(Path(cfg.OUTPUT_DIR) / "model_final.pth"))
    return cfg, model.eval()


def sizes_of(experiment: Experiment, seed: int, args: argparse.Namespace) -> ObjectWeights:
    cfg, model = trained_model(experiment, seed, args)
    return object_weights(model, DatasetCatalog.get(cfg.DATASETS.TEST[0]), cfg.INPUT.FORMAT)


def residual_of(
    experiment: Experiment, seed: int, score: float, args: argparse.Namespace
) -> Residual:
    cfg, model = trained_model(experiment, seed, args)
    layers = [model.sem_seg_head.attention_layer(name) for name in ("position", "channel")]
    factors = [layers[0].alpha, layers[1].beta]
    alpha, beta = (factor.item() for factor in factors)
    for factor in factors:
        torch.nn.init.zeros_(factor)
    without = Trainer.test(cfg, model)["sem_seg"]["mIoU"]
    return Residual(alpha, beta, score, without)


def draw(experiment: Experiment, seed: int, args: argparse.Namespace) -> np.ndarray:
    """Some validation images with what the model looks at, one below the other."""
    cfg, model = trained_model(experiment, seed, args)
    name = cfg.DATASETS.TEST[0]
    painter = AttentionPainter(model, MetadataCatalog.get(name), cfg.INPUT.FORMAT)
    records = [record for record in DatasetCatalog.get(name) if record["annotations"]]
    images = [read_image(record["file_name"], "RGB") for record in records[:NUM_PICTURES]]
    return contact_sheet([painter.draw(image) for image in images], columns=1, width=1500)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if args.report is None:
        train_all(args)
    with contextlib.redirect_stdout(io.StringIO()):
        document = report(args, args.report or args.output)
    if document is None:
        print(f"compare_attention: nothing trained in {args.output} yet", file=sys.stderr)
        return 1
    print(f"wrote {document}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
