#!/usr/bin/env python
"""Draws what a trained model predicts for images, a video or a camera.

    tools/demo.py --config-file configs/… --input FILE | FOLDER | 'GLOB' … --output FOLDER \\
        --opts MODEL.WEIGHTS model_final.pth

Without --output, a window shows the drawings; a key shows the next, Esc ends. Small images are
enlarged so that labels can be read.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axial_d2  # noqa: F401  registers the components
import cv2
import numpy as np
from axial_d2.data import DatasetError, read_image
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from axial_d2.visualization import confident, draw_prediction, legible_scale
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.video_visualizer import VideoVisualizer
from PIL import Image
from tqdm import tqdm

Array = np.ndarray

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Container → encoders to try; which exist depends on how OpenCV was built.
VIDEO_ENCODERS = {
    ".mp4": ("mp4v", "avc1"),
    ".mkv": ("mp4v", "XVID", "MJPG"),
    ".avi": ("MJPG", "XVID"),
}
UNKNOWN_FPS = 25.0
WINDOW = "axial_d2"
STOP_KEYS = (27, ord("q"))


class StrictPredictor(DefaultPredictor):
    """Detectron2's predictor; weights that do not fit raise ``WeightsError``."""

    def __init__(self, cfg: CfgNode):
        unloaded = cfg.clone()
        unloaded.defrost()
        unloaded.MODEL.WEIGHTS = ""
        super().__init__(unloaded)
        StrictCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.metadata = MetadataCatalog.get((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0])


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
        default=0.0,
        metavar="SCORE",
        help="leave out things with a lower score, 0 to 1 (default 0: all that evaluation counts)",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config options, last on the line, such as MODEL.WEIGHTS model_final.pth",
    )
    args = parser.parse_args(arguments)
    if not 0 <= args.confidence_threshold <= 1:
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


# Images -----------------------------------------------------------------------------------------


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
    predictor: StrictPredictor, images: list[Path], files: list[Path], min_score: float
) -> int:
    """Draws images into files (none: a window); returns how many could not be read."""
    unreadable = 0
    progress = tqdm(images, unit="image", disable=not files)
    for image_file, file in itertools.zip_longest(progress, files):
        try:
            image = read_image(str(image_file), "RGB")
        except DatasetError as error:
            tqdm.write(f"demo: {error}", file=sys.stderr)
            unreadable += 1
            continue
        prediction = confident(predictor(image[:, :, ::-1]), min_score)
        scale = legible_scale(*image.shape[:2])
        drawing = draw_prediction(image, prediction, predictor.metadata, scale=scale)
        if file is not None:
            Image.fromarray(drawing).save(file, quality=95)
        elif not show(drawing[:, :, ::-1], wait_ms=0):
            break
    return unreadable


# Videos -----------------------------------------------------------------------------------------


class Video:
    """Frames of a file, a stream or a camera (a number), BGR.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: OpenCV finds no frame in it.
    """

    def __init__(self, source: str | int):
        if isinstance(source, str) and "://" not in source and not os.path.isfile(source):
            raise FileNotFoundError(f"--video-input {source} does not exist.")
        self._capture = cv2.VideoCapture(source)
        opened, self.first_frame = self._capture.read()
        if not opened:
            kind = "camera" if isinstance(source, int) else "video"
            raise ValueError(
                f"OpenCV reads no frame from {kind} {source}; the file is damaged or in a format "
                "that this OpenCV lacks, or the camera is in use."
            )

    @property
    def fps(self) -> float:
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps < 1000 else UNKNOWN_FPS

    @property
    def num_frames(self) -> int | None:
        """As the file says; None where it does not."""
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    def __iter__(self) -> Iterator[Array]:
        frame: Array | None = self.first_frame
        while frame is not None:
            yield frame
            read, following = self._capture.read()
            frame = following if read else None


def open_writer(video_file: str, output: str, video: Video) -> tuple[Path, cv2.VideoWriter]:
    """The file to write and its writer, with the first encoder that this OpenCV has."""
    target = Path(output).expanduser()
    candidates = [target]
    if target.suffix.lower() not in VIDEO_ENCODERS or target.is_dir():
        if target.suffix and not target.is_dir():
            raise ValueError(
                f"--output {output} is a file; give a folder or one of {', '.join(VIDEO_ENCODERS)}."
            )
        target.mkdir(parents=True, exist_ok=True)
        candidates = [target / f"{Path(video_file).stem}{suffix}" for suffix in (".mp4", ".avi")]
    candidates[0].parent.mkdir(parents=True, exist_ok=True)
    height, width = video.first_frame.shape[:2]
    for path in candidates:
        if path.exists():
            raise FileExistsError(f"{path} exists; remove it or give another --output.")
        for encoder in VIDEO_ENCODERS[path.suffix.lower()]:
            fourcc = cv2.VideoWriter.fourcc(*encoder)
            writer = cv2.VideoWriter(str(path), fourcc, video.fps, (width, height))
            if writer.isOpened():
                return path, writer
            path.unlink(missing_ok=True)
    raise ValueError(
        f"this OpenCV has no encoder to write {' or '.join(map(str, candidates))}; "
        "give --output a name ending in .avi, or install opencv-python."
    )


def draw_video(
    predictor: StrictPredictor, video: Video, writer: cv2.VideoWriter | None, min_score: float
) -> None:
    """Draws frames, one colour an instance as long as it is seen, into a writer or a window."""
    visualizer = VideoVisualizer(predictor.metadata)
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


def draw_frame(visualizer: VideoVisualizer, frame: Array, prediction: dict[str, Any]) -> Array:
    """[H, W, 3] uint8 RGB, from the same and a prediction in Detectron2's format."""
    if "panoptic_seg" in prediction:
        ids, segments = prediction["panoptic_seg"]
        drawing = visualizer.draw_panoptic_seg_predictions(frame, ids.cpu(), segments)
    elif "instances" in prediction:
        drawing = visualizer.draw_instance_predictions(frame, prediction["instances"].to("cpu"))
    else:
        drawing = visualizer.draw_sem_seg(frame, prediction["sem_seg"].argmax(dim=0).cpu())
    return drawing.get_image()


# Windows ----------------------------------------------------------------------------------------


def require_window() -> None:
    """Raises ValueError where no window can be opened."""
    remedy = "write into a folder with --output"
    if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
        raise ValueError(f"this OpenCV is a headless build, without windows; {remedy}.")
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(os.environ.get(key) for key in displays):
        raise ValueError(f"there is no display to open a window on; {remedy}.")


def show(drawing: Array, wait_ms: int) -> bool:
    """Shows a BGR drawing until a key is pressed (``wait_ms`` 0) or that long; False to stop."""
    cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    cv2.imshow(WINDOW, np.ascontiguousarray(drawing))
    return cv2.waitKey(wait_ms) not in STOP_KEYS


# ------------------------------------------------------------------------------------------------


def run_on_images(args: argparse.Namespace) -> int:
    images = find_images(args.input)
    files = image_outputs(images, args.output) if args.output else []
    predictor = StrictPredictor(predictor_config(args.config_file, args.opts))
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    unreadable = draw_images(predictor, images, files, args.confidence_threshold)
    if files:
        print(f"Drew {len(images) - unreadable} of {len(images)} images into {args.output}.")
    return 1 if unreadable else 0


def run_on_video(args: argparse.Namespace) -> int:
    video = Video(0 if args.webcam else args.video_input)
    cfg = predictor_config(args.config_file, args.opts)
    path, writer = open_writer(args.video_input, args.output, video) if args.output else (None,) * 2
    draw_video(StrictPredictor(cfg), video, writer, args.confidence_threshold)
    if path:
        print(f"Drew {args.video_input} into {path}.")
    return 0


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        if not args.output:
            require_window()
        return run_on_images(args) if args.input else run_on_video(args)
    except (ValueError, OSError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"demo: {message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
