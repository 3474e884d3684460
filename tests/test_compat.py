"""Each bridge is built where the installed Detectron2 asks for it, and only there."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2 import compat

COMPAT_FILE = Path(compat.__file__)
ALL_BRIDGES = [
    "PIL.Image.LINEAR",
    "NumPy aliases",
    "detectron2._C",
    "detectron2.evaluation.fast_eval_api",
    "Visualizer label colours",
]

OLD_TREE = {
    "__init__.py": "",
    "data/transforms/transform.py": """
        from PIL import Image
        class ExtentTransform:
            def __init__(self, src_rect, output_size, interp=Image.LINEAR, fill=0):
                self.interp = interp
    """,
    "structures/masks.py": """
        import numpy as np
        def polygons_to_bitmask(height, width):
            return np.zeros((height, width)).astype(np.bool)
    """,
    "evaluation/sem_seg_evaluation.py": """
        import numpy as np
        def confusion(values):
            return np.array(values, dtype=np.int).astype(np.float)
    """,
    "evaluation/fast_eval_api.py": """
        from detectron2 import _C
        class COCOeval_opt:
            pass
    """,
    "evaluation/coco_evaluation.py": """
        from pycocotools.cocoeval import COCOeval
        from detectron2.evaluation.fast_eval_api import COCOeval_opt
    """,
    "layers/deform_conv.py": """
        import torch

        from detectron2 import _C
    """,
    "utils/visualizer.py": """
        import colorsys
        class Visualizer:
            def _change_color_brightness(self, color, brightness_factor):
                modified_color = colorsys.hls_to_rgb(*colorsys.rgb_to_hls(*color))
                return modified_color
    """,
}
CURRENT_TREE = {
    "__init__.py": "",
    "data/transforms/transform.py": OLD_TREE["data/transforms/transform.py"].replace(
        "LINEAR", "BILINEAR"
    ),
    "structures/masks.py": OLD_TREE["structures/masks.py"].replace("np.bool", "bool"),
    "evaluation/sem_seg_evaluation.py": """
        import numpy as np
        def confusion(values):
            return np.array(values, dtype=np.int64).astype(float)  # not np.float_ nor np.int_
    """,
    "evaluation/fast_eval_api.py": OLD_TREE["evaluation/fast_eval_api.py"],
    "evaluation/coco_evaluation.py": """
        from pycocotools.cocoeval import COCOeval
        try:
            from detectron2.evaluation.fast_eval_api import COCOeval_opt
        except ImportError:
            COCOeval_opt = COCOeval
    """,
    "layers/deform_conv.py": """
        try:
            from detectron2 import _C
        except ImportError:
            _C = None
    """,
    "utils/visualizer.py": OLD_TREE["utils/visualizer.py"].replace(
        "return modified_color", "return tuple(min(channel, 1.0) for channel in modified_color)"
    ),
}

# Loads compat.py alone, since axial_d2 itself needs a whole Detectron2, with NumPy and Pillow
# in the state of a machine that has current ones, and the colorsys of Python 3.10.
PRELUDE = """
import colorsys, importlib.util, json, sys
import numpy as np
from PIL import Image

for name in ("bool", "int", "float", "object", "str"):
    np.__dict__.pop(name, None)
Image.__dict__.pop("LINEAR", None)
colorsys.rgb_to_hls = lambda r, g, b: (0.0, 0.5, 1 + 2**-52)
spec = importlib.util.spec_from_file_location("compat", sys.argv[1])
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
"""


def write_tree(folder, files):
    for name, source in files.items():
        path = folder / "detectron2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        for parent in path.relative_to(folder).parents:
            if parent.parts:
                (folder / parent / "__init__.py").touch()


def run_with(folder, code):
    """Result that ``code`` prints as JSON, in a Python that finds packages in ``folder`` first."""
    process = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(COMPAT_FILE)],
        env={"PYTHONPATH": str(folder), "PATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_old_tree_gets_every_bridge_once(tmp_path):
    write_tree(tmp_path, OLD_TREE)
    first, second = run_with(
        tmp_path,
        "print(json.dumps([compat.bridge_old_detectron2(), compat.bridge_old_detectron2()]))",
    )
    assert first == ALL_BRIDGES
    assert second == []


def test_old_tree_works_after_bridging(tmp_path):
    write_tree(tmp_path, OLD_TREE)
    result = run_with(
        tmp_path,
        """
        compat.bridge_old_detectron2()
        import detectron2.layers.deform_conv
        from detectron2.data.transforms.transform import ExtentTransform
        from detectron2.evaluation import coco_evaluation
        from detectron2.evaluation.sem_seg_evaluation import confusion
        from detectron2.structures.masks import polygons_to_bitmask
        from detectron2.utils.visualizer import Visualizer
        print(json.dumps({
            "interp": ExtentTransform(None, None).interp == Image.BILINEAR,
            "mask": str(polygons_to_bitmask(2, 3).dtype),
            "confusion": str(confusion([1, 2]).dtype),
            "coco": coco_evaluation.COCOeval_opt is coco_evaluation.COCOeval,
            "label": max(Visualizer()._change_color_brightness((1.0, 0.0, 0.0), 0.7)),
            "object": hasattr(np, "object"),
        }))
        """,
    )
    assert result == {
        "interp": True,
        "mask": "bool",
        "confusion": "float64",
        "coco": True,
        "label": 1.0,
        "object": False,  # this tree asks for bool, int and float alone
    }


def test_label_colours_are_left_alone_by_a_python_that_rounds_well(tmp_path):
    write_tree(tmp_path, {**CURRENT_TREE, "utils/visualizer.py": OLD_TREE["utils/visualizer.py"]})
    code = """
        colorsys.rgb_to_hls = lambda r, g, b: (0.0, 0.5, 1.0)
        print(json.dumps(compat.bridge_old_detectron2()))
    """
    assert run_with(tmp_path, code) == []


def test_current_tree_is_left_untouched(tmp_path):
    write_tree(tmp_path, CURRENT_TREE)
    result = run_with(
        tmp_path,
        """
        before = set(np.__dict__) | set(Image.__dict__)
        bridged = compat.bridge_old_detectron2()
        added = sorted((set(np.__dict__) | set(Image.__dict__)) - before)
        stand_ins = [name for name in ("detectron2._C", "detectron2.evaluation.fast_eval_api")
                     if name in sys.modules]
        print(json.dumps([bridged, added, stand_ins]))
        """,
    )
    assert result == [[], [], []]


@pytest.mark.parametrize(
    ("old_file", "bridges"),
    [
        ("data/transforms/transform.py", ["PIL.Image.LINEAR"]),
        ("structures/masks.py", ["NumPy aliases"]),
        ("evaluation/sem_seg_evaluation.py", ["NumPy aliases"]),
        ("layers/deform_conv.py", ["detectron2._C"]),
        ("utils/visualizer.py", ["Visualizer label colours"]),
        ("evaluation/coco_evaluation.py", []),  # without the stand-in it is not ours to change
    ],
)
def test_each_bridge_answers_its_own_file(tmp_path, old_file, bridges):
    write_tree(tmp_path, {**CURRENT_TREE, old_file: OLD_TREE[old_file]})
    assert run_with(tmp_path, "print(json.dumps(compat.bridge_old_detectron2()))") == bridges


def test_compiled_operators_are_used_where_they_are(tmp_path):
    write_tree(tmp_path, {**OLD_TREE, "_C.py": "compiled = True"})
    bridged, compiled = run_with(
        tmp_path,
        """
        bridged = compat.bridge_old_detectron2()
        from detectron2 import _C
        print(json.dumps([bridged, _C.compiled]))
        """,
    )
    assert bridged == [ALL_BRIDGES[0], ALL_BRIDGES[1], ALL_BRIDGES[4]]
    assert compiled


def test_missing_operator_says_which_and_what_to_do(tmp_path):
    write_tree(tmp_path, OLD_TREE)
    message, found = run_with(
        tmp_path,
        """
        compat.bridge_old_detectron2()
        from detectron2 import _C
        try:
            _C.nms_rotated(1, 2)
        except compat.MissingOperatorError as error:
            print(json.dumps([str(error), importlib.util.find_spec("detectron2._C") is not None]))
        """,
    )
    assert "detectron2._C.nms_rotated" in message
    assert "Install a compiled Detectron2" in message
    assert found  # code that only asks whether the module is there gets an answer


def test_missing_detectron2_says_what_to_do(monkeypatch):
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"not installed in this Python .*`make env`"):
        compat.bridge_old_detectron2()


def test_folder_that_hides_detectron2_is_named(tmp_path):
    (tmp_path / "detectron2" / "configs").mkdir(parents=True)  # a checkout's root, not its package
    message = run_with(
        tmp_path,
        """
        sys.path[:] = [path for path in sys.path if not path.endswith("site-packages")]
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
        try:
            compat.bridge_old_detectron2()
        except ImportError as error:
            print(json.dumps(str(error)))
        """,
    )
    assert str(tmp_path / "detectron2") in message
    assert "Start Python from another folder" in message


# The installed Detectron2, whichever it is, does what the rest of axial_d2 counts on.


def test_environment_summary_is_collected():
    from detectron2.utils.collect_env import collect_env_info

    assert "detectron2" in collect_env_info()


def test_coco_evaluator_with_defaults_reaches_full_marks(tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, BoxMode, Instances
    from pycocotools import mask as mask_tools

    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[20:50, 30:70] = 1
    record = {
        "file_name": "none.png",
        "image_id": 0,
        "height": 60,
        "width": 80,
        "annotations": [
            {
                "bbox": [30, 20, 40, 30],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "segmentation": mask_tools.encode(np.asfortranarray(mask)),
            }
        ],
    }
    name = "axial_d2_test_compat"
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["box"])
    prediction = Instances(
        (60, 80),
        pred_boxes=Boxes(torch.tensor([[30.0, 20.0, 70.0, 50.0]])),
        pred_masks=torch.from_numpy(mask)[None].bool(),
        pred_classes=torch.tensor([0]),
        scores=torch.tensor([0.9]),
    )
    try:
        evaluator = COCOEvaluator(name, output_dir=str(tmp_path))
        evaluator.reset()
        evaluator.process([record], [{"instances": prediction}])
        results = evaluator.evaluate()
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_visualizer_draws_panoptic_segments():
    from detectron2.data import Metadata
    from detectron2.utils.visualizer import Visualizer

    metadata = Metadata(
        thing_classes=["box"],
        thing_colors=[(255, 0, 0)],
        stuff_classes=["ground", "box"],
        stuff_colors=[(0, 255, 0), (255, 0, 0)],
    )
    panoptic = torch.ones(60, 80, dtype=torch.int32)
    panoptic[20:40, 30:60] = 2
    segments = [
        {"id": 1, "category_id": 0, "isthing": False, "area": 4200},
        {"id": 2, "category_id": 0, "isthing": True, "score": 0.9, "area": 600},
    ]
    image = np.full((60, 80, 3), 128, dtype=np.uint8)
    drawn = Visualizer(image, metadata, scale=2).draw_panoptic_seg(panoptic, segments).get_image()
    assert drawn.shape == (120, 160, 3)
    ground = np.median(drawn[:, :40], axis=(0, 1))  # medians pass over the labels' text
    box = np.median(drawn[40:80, 60:120], axis=(0, 1))
    assert ground.argmax() == 1  # green
    assert box.argmax() == 0  # red


def test_label_colours_suit_matplotlib():
    from detectron2.utils.visualizer import Visualizer
    from matplotlib import colors

    visualizer = Visualizer(np.zeros((2, 2, 3), dtype=np.uint8))
    for color in np.random.default_rng(0).random((500, 3)):
        color[color.argmax()] = 1  # as the visualizer's jitter makes them
        colors.to_rgb(visualizer._change_color_brightness(color, 0.7))


def test_checkpoints_of_the_trainer_load_again(tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.solver import LRMultiplier
    from fvcore.common.param_scheduler import CosineParamScheduler

    def build():
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = LRMultiplier(optimizer, CosineParamScheduler(1.0, 0.0), max_iter=10)
        checkpointer = DetectionCheckpointer(
            model, str(tmp_path), optimizer=optimizer, scheduler=scheduler
        )
        return model, optimizer, scheduler, checkpointer

    model, optimizer, scheduler, checkpointer = build()
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    checkpointer.save("model", iteration=3)

    again, optimizer_again, scheduler_again, checkpointer_again = build()
    rest = checkpointer_again.resume_or_load("", resume=True)
    assert rest["iteration"] == 3
    assert torch.equal(again.weight, model.weight)
    assert scheduler_again.last_epoch == scheduler.last_epoch
    assert optimizer_again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
