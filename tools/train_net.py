#!/usr/bin/env python
"""Trains and evaluates any config, with Detectron2's usual command line or under torchrun.

tools/train_net.py --config-file configs/… [--num-gpus N] [--resume | --eval-only] [KEY VALUE …]
torchrun --nproc-per-node N tools/train_net.py --config-file configs/… [KEY VALUE …]
"""

from __future__ import annotations

import argparse
import logging

from axial_d2.engine import StrictCheckpointer, Trainer, run_under_torchrun, under_torchrun
from axial_d2.engine.checks import check_config, check_data_files
from axial_d2.engine.setup import setup
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm


def main(args: argparse.Namespace) -> dict:
    cfg = setup(args)
    if args.eval_only:
        check_config(cfg)
        check_data_files(cfg.DATASETS.TEST)
        if not (cfg.MODEL.WEIGHTS or args.resume):
            logging.getLogger("axial_d2").warning(
                "--eval-only without MODEL.WEIGHTS or --resume evaluates random weights"
            )
        model = Trainer.build_model(cfg)
        StrictCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = Trainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_with_TTA(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run() -> None:
    args = default_argument_parser(epilog=__doc__).parse_args()
    if under_torchrun():
        run_under_torchrun(main, (args,))
        return
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    run()
