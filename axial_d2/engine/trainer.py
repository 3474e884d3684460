"""Detectron2's trainer, also on several CPUs and in bfloat16 there."""

from __future__ import annotations

import logging
import os
import time
import weakref
from typing import Any

import torch
from axial_d2.data.classification_mapper import ClassificationMapper
from axial_d2.data.mapper import NamingMapper, PanopticMapper
from axial_d2.data.semantic_mapper import SemanticMapper
from axial_d2.engine.checkpoint import StrictCheckpointer
from axial_d2.engine.checks import check_config, check_data_files
from axial_d2.engine.ema import build_ema, check_resumed
from axial_d2.evaluation import build_evaluators
from axial_d2.meta_arch.test_time_augmentation import with_test_time_augmentation
from axial_d2.solver import build_lr_scheduler, build_optimizer
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.utils.data import DataLoader

# Meta-architecture → the mapper of its training data; others use Detectron2's DatasetMapper.
TRAINING_MAPPERS = {
    "AxialDeepLab": PanopticMapper,
    "PanopticDeepLab": PanopticMapper,
    "ScaleAttentionSegmentor": SemanticMapper,
    "SlidingWindowSegmentor": SemanticMapper,
    "ImageClassifier": ClassificationMapper,
}
# The same of its test data.
TEST_MAPPERS = {"ImageClassifier": ClassificationMapper}


class CPUAutocastTrainer(SimpleTrainer):
    """``SOLVER.AMP`` without a GPU: forward in bfloat16 where that is safe, no loss scaling."""

    def run_step(self) -> None:
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss_dict = self.model(data)
        self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()


class Trainer(DefaultTrainer):
    """Trains any Detectron2 config; picks mapper, optimizer, schedule and evaluators by table.

    Raises:
        ValueError: before anything is built, where config, data sets and machine disagree.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer.__init__, but for the CPU's wrapper and trainer and the checkpointer.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        check_config(cfg)
        check_data_files((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = _distributed_model(model)
        self._trainer = _step_trainer(cfg)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = build_ema(cfg, model)
        self.checkpointer = StrictCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.ema = self.ema
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def state_dict(self) -> dict[str, Any]:
        # Detectron2 0.6 forgets the optimizer; git main saves it under this name too.
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_resumed(state_dict, self.ema is not None)
        super().load_state_dict(state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's, and what ``SOLVER.EMA`` and ``TEST.AUG`` ask for."""
        built = super().build_hooks()
        if self.ema is not None:
            evaluation = [type(hook) for hook in built].index(hooks.EvalHook)
            built[evaluation] = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._test)
            # Before anything saves or tests what it averages.
            built.insert(0, self.ema)
        if self.cfg.TEST.AUG.ENABLED:
            kinds = [type(hook) for hook in built]
            # Right after the plain test, and before the results are written.
            built.insert(kinds.index(hooks.EvalHook) + 1, hooks.EvalHook(0, self._test_with_TTA))
        return built

    @property
    def tested_model(self) -> nn.Module:
        """What evaluation during and after training sees: the average of ``SOLVER.EMA`` if any."""
        return self.model if self.ema is None else self.ema.model

    def _test(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.tested_model)
        return self._last_eval_results

    def _test_with_TTA(self) -> dict[str, Any]:
        results = self.test_with_TTA(self.cfg, self.tested_model)
        self._last_eval_results.update(results)
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Like ``test``, with the augmentation of ``TEST.AUG``, as in Detectron2's train_net.py.

        Returns:
            The results under "<task>_TTA"; of several data sets, under "<data set>_TTA". Files
            of the evaluators go into ``OUTPUT_DIR/inference_TTA``.
        """
        logging.getLogger(__name__).info("Running inference with test-time augmentation ...")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, with_test_time_augmentation(cfg, model), evaluators)
        return {f"{name}_TTA": result for name, result in results.items()}

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        mapper_class = TRAINING_MAPPERS.get(cfg.MODEL.META_ARCHITECTURE, DatasetMapper)
        arguments = {} if mapper_class is PanopticMapper else {"is_train": True}
        mapper = NamingMapper(mapper_class(cfg, **arguments))
        # Crops of one size have no sides to be grouped by; "width" and "height" are not looked up.
        options = {"aspect_ratio_grouping": False} if _one_size(cfg) else {}
        return build_detection_train_loader(cfg, mapper=mapper, **options)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        mapper_class = TEST_MAPPERS.get(cfg.MODEL.META_ARCHITECTURE, DatasetMapper)
        mapper = NamingMapper(mapper_class(cfg, is_train=False))
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        if not _one_size(cfg):
            return loader
        return _in_batches(loader, max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluators:
        return build_evaluators(cfg, dataset_name, output_folder)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        return build_lr_scheduler(cfg, optimizer)


def _one_size(cfg: CfgNode) -> bool:
    """Whether all images that the model sees have the same size."""
    return TEST_MAPPERS.get(cfg.MODEL.META_ARCHITECTURE) is ClassificationMapper


def _in_batches(loader: DataLoader, size: int) -> DataLoader:
    """Detectron2's test loader, in whose version 0.6 a batch is one image, with larger ones."""
    return DataLoader(
        loader.dataset,
        batch_size=size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


def _distributed_model(model: nn.Module) -> nn.Module:
    if next(model.parameters()).device.type == "cpu":
        return create_ddp_model(model, broadcast_buffers=False, device_ids=None)
    return create_ddp_model(model, broadcast_buffers=False)


def _step_trainer(cfg: CfgNode) -> type[SimpleTrainer]:
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer
    return AMPTrainer if torch.device(cfg.MODEL.DEVICE).type == "cuda" else CPUAutocastTrainer
