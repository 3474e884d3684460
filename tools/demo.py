#!/usr/bin/env python
"""Draws what a trained model predicts for images, a video or a camera; writes classes into them.

    tools/demo.py --config-file configs/… --input FILE | FOLDER | 'GLOB' … --output FOLDER \\
        --opts MODEL.WEIGHTS model_final.pth

Without --output, a window shows the drawings; a key shows the next, Esc ends. Small images are
enlarged so that labels can be read.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from axial_d2.data import ClassificationMapper, DatasetError, read_image
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch.test_time_augmentation import with_test_time_augmentation
from axial_d2.visualization import (
    VIDEO_ENCODERS,
    Video,
    confident,
    draw_frame,
    draw_prediction,
    legible_scale,
    open_writer,
)
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.video_visualizer import VideoVisualizer
from PIL import Image
from tqdm import tqdm

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WINDOW = "axial_d2"
STOP_KEYS = (27, ord("q"))


class StrictPredictor(DefaultPredictor):
    """Detectron2's predictor; weights that do not fit raise ``WeightsError``.

    With ``TEST.AUG.ENABLED`` it predicts with that test-time augmentation. A classifier sees the
    part of the image that its data set's tests see.
    """

    def __init__(self, cfg: CfgNode):
        unloaded = cfg.clone()
        unloaded.defrost()
        unloaded.MODEL.WEIGHTS = ""
        super().__init__(unloaded)
        StrictCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        if cfg.TEST.AUG.ENABLED:
            self.model = with_test_time_augmentation(cfg, self.model)
        self.metadata = MetadataCatalog.get((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0])
        self.crop = None
        if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
            self.crop = ClassificationMapper(cfg, is_train=False).transforms

    def __call__(self, original_image: np.ndarray) -> dict:
        if self.crop is None:
            return super().__call__(original_image)
        pixels = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        image = self.crop(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
        with torch.no_grad():
            return self.model([{"image": image}])[0]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="image files, folders or quoted glob patterns")
    source.add_argument("--video-input", metavar="FILE", help="a video")
    source.add_argument("--webcam", action="store_true", help="the first camera, in a window")
    parser.add_argument(
        "--output",
        help="folder (created where missing) or, for one image or video, file to draw into; "
        "without it, a window shows the drawings",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help="leave out things with a lower score, 0 to 1 (default: 0.5 for boxes, of which a "
        "detector gives many; 0 for panoptic maps: all that evaluation counts)",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config options, last on the line, such as MODEL.WEIGHTS model_final.pth",
    )
    args = parser.parse_args(arguments)
    if args.confidence_threshold is not None and not 0 <= args.confidence_threshold <= 1:
        parser.error(
            f"--confidence-threshold is {args.confidence_threshold}; it must lie in [0, 1]"
        )
    if args.webcam and args.output:
        parser.error("--webcam shows a window and takes no --output; record a --video-input")
    return args


def predictor_config(config_file: str, opts: list[str]) -> CfgNode:
    """The config of a model to draw with; checked, since building and loading take long."""
    cfg = load_config(config_file, opts)
    check_config(cfg)
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError(
            "MODEL.WEIGHTS is empty, and an untrained model predicts noise; append "
            "--opts MODEL.WEIGHTS path/to/model_final.pth"
        )
    if "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(f"MODEL.WEIGHTS is {weights}, which does not exist.")
    return cfg


def find_images(inputs: list[str]) -> list[Path]:
    """The files that --input names, in order, each once."""
    found = [path for given in inputs for path in _images_of(os.path.expanduser(given))]
    return list(dict.fromkeys(found))


def _images_of(given: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        images = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise ValueError(
                f"--input {given} is a folder without images ({', '.join(IMAGE_SUFFIXES)}). For "
                f"those in its sub-folders give a pattern such as '{given.rstrip('/')}/**/*.jpg'."
            )
        return images
    matches = sorted(Path(p) for p in glob.glob(given, recursive=True) if os.path.isfile(p))
    if not matches:
        raise FileNotFoundError(f"--input {given} is no file or folder and matches no file.")
    return matches


def image_outputs(images: list[Path], output: str) -> list[Path]:
    """The file to draw each image into.

    Raises:
        ValueError: a file where a folder is needed, or two images or an image and a drawing
            would be the same file.
    """
    target = Path(output).expanduser()
    names_image = target.suffix.lower() in IMAGE_SUFFIXES and not target.is_dir()
    if len(images) == 1 and names_image:
        files = [target]
    elif names_image or target.is_file():
        allowed = f" or a file ending in {', '.join(IMAGE_SUFFIXES)}" if len(images) == 1 else ""
        raise ValueError(
            f"--output {output} is a file, to draw {len(images)} images into; give a "
            f"folder{allowed}."
        )
    else:
        files = [target / _drawn_name(image) for image in images]
    seen: dict[Path, Path] = {}
    originals = {image.resolve() for image in images}
    for image, file in zip(images, files, strict=True):
        if file in seen:
            raise ValueError(
                f"{seen[file]} and {image} would both be drawn into {file}; draw them in two runs."
            )
        if file.resolve() in originals:
            raise ValueError(f"--output {output} would overwrite {file}; give another folder.")
        seen[file] = image
    return files


def _drawn_name(image: Path) -> str:
    return image.name if image.suffix.lower() in IMAGE_SUFFIXES else f"{image.name}.png"


def draw_images(
    predictor: StrictPredictor, images: list[Path], files: list[Path], min_score: float | None
) -> int:
    """Draws images into files (none: a window); returns the exit code."""
    unreadable = 0
    targets: list[Path | None] = [*files] or [None] * len(images)
    progress = tqdm(images, unit="image", disable=not files)
    for image_file, target in zip(progress, targets, strict=True):
        try:
            image = read_image(str(image_file), "RGB")
        except DatasetError as error:
            tqdm.write(f"demo: {error}", file=sys.stderr)
            unreadable += 1
            continue
        prediction = confident(predictor(image[:, :, ::-1]), min_score)
        scale = legible_scale(*image.shape[:2])
        drawing = draw_prediction(image, prediction, predictor.metadata, scale=scale)
        if target is not None:
            Image.fromarray(drawing).save(target, quality=95)
        elif not show(drawing[:, :, ::-1], wait_ms=0):
            break
    if files:
        print(f"Drew {len(images) - unreadable} of {len(images)} images into {files[0].parent}.")
    return 1 if unreadable else 0


def video_outputs(video_file: str, output: str) -> list[Path]:
    """The file to draw a video into, and another for an OpenCV that cannot write the first.

    Raises:
        ValueError: a file of a kind that is not written.
        FileExistsError: nothing is overwritten.
    """
    target = Path(output).expanduser()
    if target.is_dir() or not target.suffix:
        files = [target / f"{Path(video_file).stem}{suffix}" for suffix in (".mp4", ".avi")]
    elif target.suffix.lower() in VIDEO_ENCODERS:
        files = [target]
    else:
        raise ValueError(
            f"--output {output} is neither a folder nor a file ending in "
            f"{', '.join(VIDEO_ENCODERS)}."
        )
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} exists; remove it or give another --output.")
    return files


def draw_video(
    predictor: StrictPredictor, video: Video, files: list[Path], min_score: float | None
) -> int:
    """Draws frames, one colour an instance as long as it is seen, into a file (none: a window)."""
    visualizer = VideoVisualizer(predictor.metadata)
    file, writer = open_writer(files, video) if files else (None, None)
    try:
        for frame in tqdm(video, total=video.num_frames, unit="frame"):
            prediction = confident(predictor(frame), min_score)
            drawing = draw_frame(visualizer, frame[:, :, ::-1], prediction)[:, :, ::-1]
            if writer is not None:
                writer.write(np.ascontiguousarray(drawing))
            elif not show(drawing, wait_ms=1):
                break
    finally:
        if writer is not None:
            writer.release()
            print(f"Drew the video into {file}.")
    return 0


def require_window() -> None:
    """Raises ValueError where no window can be opened."""
    remedy = "write into a folder with --output"
    if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
        raise ValueError(f"this OpenCV is a headless build, without windows; {remedy}.")
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(os.environ.get(key) for key in displays):
        raise ValueError(f"there is no display to open a window on; {remedy}.")


def show(drawing: np.ndarray, wait_ms: int) -> bool:
    """Shows a BGR drawing until a key is pressed (``wait_ms`` 0) or that long; False to stop."""
    cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    cv2.imshow(WINDOW, np.ascontiguousarray(drawing))
    return cv2.waitKey(wait_ms) not in STOP_KEYS


def prepare_images(args: argparse.Namespace) -> Callable[[], int]:
    images = find_images(args.input)
    files = image_outputs(images, args.output) if args.output else []
    cfg = predictor_config(args.config_file, args.opts)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    return partial(draw_images, StrictPredictor(cfg), images, files, args.confidence_threshold)


def prepare_video(args: argparse.Namespace) -> Callable[[], int]:
    files = video_outputs(args.video_input, args.output) if args.output else []
    video = Video(0 if args.webcam else args.video_input)
    cfg = predictor_config(args.config_file, args.opts)
    return partial(draw_video, StrictPredictor(cfg), video, files, args.confidence_threshold)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        if not args.output:
            require_window()
        draw = prepare_images(args) if args.input else prepare_video(args)
    except (ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return draw()


if __name__ == "__main__":
    sys.exit(main())
