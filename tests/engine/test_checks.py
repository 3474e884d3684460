"""Everything that is refused before work begins, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from axial_d2.data import DatasetError
from axial_d2.engine import Trainer
from axial_d2.engine.checks import check_config, check_data_files
from axial_d2.engine.setup import load_config
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

MakeCfg = Callable[..., CfgNode]


def test_a_good_config_passes(tiny_cfg: MakeCfg) -> None:
    check_config(tiny_cfg())


def test_the_trainer_checks_before_it_builds(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "build_model", lambda *_: pytest.fail("built a model first"))
    with pytest.raises(ValueError, match="NUM_CLASSES"):
        Trainer(tiny_cfg("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("coco_2017_train_panoptic", "panoptic_train2017.json"),
        ("coco_2017_val", "instances_val2017.json"),
        ("cityscapes_fine_panoptic_train", "leftImg8bit/train"),
    ],
)
def test_files_of_detectron2s_data_sets_are_missed_before_the_model_is_built(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name} lacks .*{path}.*DETECTRON2_DATASETS"):
        check_data_files([name])
    monkeypatch.setattr(Trainer, "build_model", lambda *_: pytest.fail("built a model first"))
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        Trainer(tiny_cfg("DATASETS.TEST", (name,), "MODEL.META_ARCHITECTURE", "FCOS"))


def test_a_training_within_its_warm_up_is_pointed_out(
    tiny_cfg: MakeCfg, caplog: pytest.LogCaptureFixture
) -> None:
    check_config(tiny_cfg("SOLVER.WARMUP_ITERS", 4, "SOLVER.MAX_ITER", 5))
    assert "WARMUP_ITERS" not in caplog.text
    check_config(tiny_cfg("SOLVER.WARMUP_ITERS", 5, "SOLVER.MAX_ITER", 5))
    assert "the learning rate never reaches SOLVER.BASE_LR" in caplog.text


def test_the_demo_that_is_not_there_comes_with_its_command() -> None:
    with pytest.raises(FileNotFoundError, match=r"make_demo_dataset\.py --output output/demo"):
        load_config(
            "configs/demo/axial_deeplab_demo.yaml",
            ["DATASETS.PANOPTIC", "[['axial_d2_demo_train', 'no', 'no', 'no.json']]"],
        )


@pytest.mark.parametrize(
    ("architecture", "key", "count"),
    [
        ("AxialDeepLab", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 10),
        ("PanopticDeepLab", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 10),
        ("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 10),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", 5),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 5),
    ],
)
def test_another_number_of_classes_names_key_value_data_set_and_remedy(
    tiny_cfg: MakeCfg, architecture: str, key: str, count: int
) -> None:
    check_config(tiny_cfg("MODEL.META_ARCHITECTURE", architecture, key, count))
    with pytest.raises(
        ValueError,
        match=rf"{key} is 7, but the data set tiny_train has {count} classes \(.*set {key} to "
        rf"{count}\.",
    ) as error:
        check_config(tiny_cfg("MODEL.META_ARCHITECTURE", architecture, key, 7))
    assert MetadataCatalog.get("tiny_train").stuff_classes[0] in str(error.value)


def test_the_test_set_is_checked_too(tiny_cfg: MakeCfg, write_boxes: Callable) -> None:
    cfg = tiny_cfg("DATASETS.PANOPTIC", [write_boxes(1)], "DATASETS.TEST", "('boxes',)")
    with pytest.raises(ValueError, match="NUM_CLASSES is 10, but the data set boxes has 2"):
        check_config(cfg)


def test_another_ignore_label_names_key_value_data_set_and_remedy(tiny_cfg: MakeCfg) -> None:
    with pytest.raises(
        ValueError,
        match=r"IGNORE_VALUE is 254, but the data set tiny_train .* 255; set .*IGNORE_VALUE to 255",
    ):
        check_config(tiny_cfg("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 254))


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_an_unknown_data_set_is_answered_with_the_known_ones(tiny_cfg: MakeCfg, key: str) -> None:
    with pytest.raises(
        ValueError, match=rf"DATASETS.{key} names \['tyni_train'\].*'tiny_train', 'tiny_val'"
    ) as error:
        check_config(tiny_cfg(f"DATASETS.{key}", "('tyni_train',)"))
    assert "register_panoptic_dataset" in str(error.value)


def test_no_training_data_set(tiny_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        check_config(tiny_cfg("DATASETS.TRAIN", "()"))


def test_an_empty_panoptic_json_is_named(tiny_cfg: MakeCfg, write_boxes: Callable) -> None:
    boxes = write_boxes(1)
    data = json.loads(Path(boxes[3]).read_text())
    Path(boxes[3]).write_text(json.dumps({**data, "images": [], "annotations": []}))
    with pytest.raises(DatasetError, match=re.escape(boxes[3])):
        tiny_cfg("DATASETS.PANOPTIC", [boxes])


def test_an_empty_data_set_of_any_other_kind_is_named(tiny_cfg: MakeCfg) -> None:
    DatasetCatalog.register("nothing", list)
    tiny_cfg()
    metadata = MetadataCatalog.get("tiny_train").as_dict()
    MetadataCatalog.get("nothing").set(
        **{k: v for k, v in metadata.items() if k not in ("name", "dataset")}
    )
    with pytest.raises((ValueError, AssertionError), match=r"'nothing' is empty"):
        Trainer(tiny_cfg("DATASETS.TRAIN", "('nothing',)"))


def test_a_missing_panoptic_json_is_named(tiny_cfg: MakeCfg) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        tiny_cfg("DATASETS.PANOPTIC", [["x", "images", "png", "nowhere.json"]])


@pytest.mark.parametrize("entry", [["name", "images"], [], ["a", "b", "c", "d", "e"]])
def test_a_malformed_entry_is_shown(tiny_cfg: MakeCfg, entry: list[str]) -> None:
    with pytest.raises(
        ValueError, match=rf"DATASETS.PANOPTIC has the entry {re.escape(str(entry))}"
    ):
        tiny_cfg("DATASETS.PANOPTIC", [entry])


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"--config-file configs/axial.yaml does not exist"):
        load_config("configs/axial.yaml")


def test_a_misspelt_key_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "misspelt.yaml"
    path.write_text("MODEL:\n  AXIAL_RESNET:\n    WIDHT_MULTIPLIER: 0.5\n")
    with pytest.raises(ValueError, match=r"Non-existent .*MODEL.AXIAL_RESNET.WIDHT") as error:
        load_config(str(path))
    assert str(path) in str(error.value)


def test_a_misspelt_key_on_the_command_line_is_named() -> None:
    with pytest.raises(ValueError, match=r"options .*Non-existent .*AXIAL_RESNET.WIDHT"):
        load_config("", ["MODEL.AXIAL_RESNET.WIDHT_MULTIPLIER", "0.5"])


def test_a_gpu_that_is_not_there_becomes_the_cpu_with_a_word(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert load_config("", ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cpu"
    assert "MODEL.DEVICE cuda becomes cpu" in caplog.text


def test_a_gpu_that_is_not_there_is_refused_where_nobody_replaced_it(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = tiny_cfg()
    cfg.MODEL.DEVICE = "cuda"
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is 'cuda'.*MODEL.DEVICE cpu"):
        check_config(cfg)


@pytest.mark.parametrize("node", ["AXIAL_RESNET", "SEM_SEG_HEAD", "INS_EMBED_HEAD"])
def test_sync_bn_on_several_cpu_processes_is_refused(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    cfg = tiny_cfg(f"MODEL.{node}.NORM", "SyncBN")
    check_config(cfg)  # one process is fine
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=rf"MODEL.{node}.NORM is SyncBN.*naiveSyncBN"):
        check_config(cfg)
    check_config(tiny_cfg(f"MODEL.{node}.NORM", "naiveSyncBN"))


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("build_axial_resnet_backbone", "AXIAL_RESNET"),
        ("build_retinanet_axial_resnet_fpn_backbone", "AXIAL_RESNET"),
        ("build_local_attention_resnet_backbone", "LOCAL_ATTENTION_RESNET"),
        ("build_local_attention_resnet_fpn_backbone", "LOCAL_ATTENTION_RESNET"),
        ("build_retinanet_local_attention_resnet_fpn_backbone", "LOCAL_ATTENTION_RESNET"),
        ("build_resnet_backbone", "RESNETS"),
        ("build_resnet_deeplab_backbone", "RESNETS"),
    ],
)
def test_the_norm_of_the_backbone_in_use_is_the_one_that_counts(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, name: str, node: str
) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    nodes = ("AXIAL_RESNET", "LOCAL_ATTENTION_RESNET", "RESNETS")
    opts = [x for each in nodes for x in (f"MODEL.{each}.NORM", "SyncBN")]
    with pytest.raises(ValueError, match=rf"^MODEL.{node}.NORM is SyncBN"):
        check_config(tiny_cfg("MODEL.BACKBONE.NAME", name, *opts))
    check_config(tiny_cfg("MODEL.BACKBONE.NAME", name, *opts, f"MODEL.{node}.NORM", "BN"))


def test_norms_of_heads_that_the_model_has_not_do_not_matter(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    heads = [
        x for each in ("SEM_SEG_HEAD", "INS_EMBED_HEAD") for x in (f"MODEL.{each}.NORM", "SyncBN")
    ]
    classes = ("MODEL.RETINANET.NUM_CLASSES", 5, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    for architecture in ("RetinaNet", "GeneralizedRCNN"):
        check_config(tiny_cfg("MODEL.META_ARCHITECTURE", architecture, *heads, *classes))


def test_a_crop_in_shares_of_the_image(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "relative")
    with pytest.raises(ValueError, match=r"INPUT.CROP.TYPE is 'relative'.*'absolute' only"):
        check_config(cfg)
