"""Which evaluators a data set and a model call for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axial_d2.engine import Trainer
from axial_d2.evaluation import EVALUATORS, build_evaluators
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

MakeCfg = Callable[..., CfgNode]


@pytest.fixture
def metadata(tiny_cfg: MakeCfg) -> Callable[..., str]:
    """``metadata(evaluator_type)``: a data set's name with all that evaluators look up."""
    tiny_cfg()
    source = MetadataCatalog.get("tiny_val")
    common = {k: v for k, v in source.as_dict().items() if k not in ("name", "dataset")}
    common |= {"json_file": source.json_file, "sem_seg_root": source.sem_seg_root}
    names: list[str] = []

    def make(evaluator_type: str | None, **changes) -> str:
        names.append(f"evaluated_{len(names)}")
        values = {**common, **changes}
        values.pop("evaluator_type")
        if evaluator_type is not None:
            values["evaluator_type"] = evaluator_type
        MetadataCatalog.get(names[-1]).set(**{k: v for k, v in values.items() if v is not None})
        DatasetCatalog.register(names[-1], lambda: DatasetCatalog.get("tiny_val"))
        return names[-1]

    common["classes"] = ["one", "two"]
    return make


def kinds(evaluators: DatasetEvaluators) -> list[str]:
    return [type(evaluator).__name__ for evaluator in evaluators._evaluators]


@pytest.mark.parametrize(
    ("architecture", "evaluator_type", "expected"),
    [
        (
            "AxialDeepLab",
            "coco_panoptic_seg",
            ["COCOPanopticEvaluator", "SemSegEvaluator", "COCOEvaluator"],
        ),
        (
            "AxialDeepLab",
            "cityscapes_panoptic_seg",
            ["COCOPanopticEvaluator", "CityscapesSemSegEvaluator", "CityscapesInstanceEvaluator"],
        ),
        ("AxialDeepLab", "sem_seg", ["SemSegEvaluator"]),
        ("AxialDeepLab", "coco", ["COCOEvaluator"]),
        ("AxialDeepLab", "cityscapes_instance", ["CityscapesInstanceEvaluator"]),
        ("AxialDeepLab", "cityscapes_sem_seg", ["CityscapesSemSegEvaluator"]),
        ("GeneralizedRCNN", "coco_panoptic_seg", ["COCOEvaluator"]),
        ("RetinaNet", "coco", ["COCOEvaluator"]),
        ("SemanticSegmentor", "coco_panoptic_seg", ["SemSegEvaluator"]),
        ("SemanticSegmentor", "cityscapes_panoptic_seg", ["CityscapesSemSegEvaluator"]),
        ("ImageClassifier", "classification", ["ClassificationEvaluator"]),
    ],
)
def test_the_table(
    tiny_cfg: MakeCfg,
    metadata: Callable[..., str],
    architecture: str,
    evaluator_type: str,
    expected: list[str],
) -> None:
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", architecture)
    assert kinds(build_evaluators(cfg, metadata(evaluator_type))) == expected


def test_without_semantic_ground_truth_there_is_no_semantic_evaluator(
    tiny_cfg: MakeCfg, metadata: Callable[..., str]
) -> None:
    name = metadata("coco_panoptic_seg", sem_seg_root=None)
    assert kinds(build_evaluators(tiny_cfg(), name)) == ["COCOPanopticEvaluator", "COCOEvaluator"]


@pytest.mark.parametrize("evaluator_type", [None, "ade20k"])
def test_an_unknown_type_is_answered_with_the_known_ones(
    tiny_cfg: MakeCfg, metadata: Callable[..., str], evaluator_type: str | None
) -> None:
    name = metadata(evaluator_type)
    with pytest.raises(
        ValueError, match=rf"{name} has evaluator_type {evaluator_type!r}.*'coco_panoptic_seg'"
    ):
        build_evaluators(tiny_cfg(), name)


def test_a_type_that_the_model_cannot_serve_is_refused(
    tiny_cfg: MakeCfg, metadata: Callable[..., str]
) -> None:
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", "RetinaNet")
    with pytest.raises(ValueError, match=r"RetinaNet predicts \('instances',\), none of which"):
        build_evaluators(cfg, metadata("sem_seg"))


def test_the_output_folder(tiny_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = tiny_cfg()
    panoptic = build_evaluators(cfg, "tiny_val")._evaluators[0]
    assert panoptic._output_dir == str(Path(cfg.OUTPUT_DIR) / "inference")
    panoptic = build_evaluators(cfg, "tiny_val", str(tmp_path / "here"))._evaluators[0]
    assert panoptic._output_dir == str(tmp_path / "here")


def test_the_trainer_uses_the_table(tiny_cfg: MakeCfg) -> None:
    assert kinds(Trainer.build_evaluator(tiny_cfg(), "tiny_val")) == [
        "COCOPanopticEvaluator",
        "SemSegEvaluator",
        "COCOEvaluator",
    ]


@pytest.mark.parametrize(
    "name", ["coco_2017_train_panoptic", "coco_2017_val_panoptic", "coco_2017_val_100_panoptic"]
)
def test_detectron2s_panoptic_coco_measures_instances_on_their_own_names(
    tiny_cfg: MakeCfg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    made = []
    monkeypatch.setattr(
        "axial_d2.evaluation.table.COCOEvaluator", lambda name, output_dir: made.append(name)
    )
    build_evaluators(tiny_cfg(), name, str(tmp_path))
    assert made == [name.removesuffix("_panoptic")]
    things = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    assert things == MetadataCatalog.get(made[0]).thing_dataset_id_to_contiguous_id


def test_every_type_has_a_factory_for_something() -> None:
    outputs = {"panoptic_seg", "sem_seg", "instances", "logits"}
    assert all(factories and set(factories) <= outputs for factories in EVALUATORS.values())
