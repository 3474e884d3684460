"""Videos in, drawn videos out, with OpenCV and Detectron2's ``VideoVisualizer``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from axial_d2.visualization.pictures import draw_prediction
from detectron2.utils.video_visualizer import VideoVisualizer

Array = np.ndarray

# Container → encoders to try; which exist depends on how OpenCV was built.
VIDEO_ENCODERS = {
    ".mp4": ("mp4v", "avc1"),
    ".mkv": ("mp4v", "XVID", "MJPG"),
    ".avi": ("MJPG", "XVID"),
}
UNKNOWN_FPS = 25.0


class Video:
    """Frames of a file, a stream or a camera (a number), BGR.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: OpenCV finds no frame in it.
    """

    def __init__(self, source: str | int):
        if isinstance(source, str) and "://" not in source and not os.path.isfile(source):
            raise FileNotFoundError(f"the video {source} does not exist.")
        self._capture = cv2.VideoCapture(source)
        opened, self.first_frame = self._capture.read()
        if not opened:
            reason = (
                "is there a camera, and not in use?"
                if isinstance(source, int)
                else "the file is damaged, or of a format that this OpenCV cannot read."
            )
            raise ValueError(f"OpenCV gets no frame from {source}: {reason}")

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


def open_writer(files: Sequence[Path], video: Video) -> tuple[Path, cv2.VideoWriter]:
    """The first of some files that this OpenCV has an encoder for, and a writer into it.

    Args:
        files: each ends in one of ``VIDEO_ENCODERS``.
        video: gives the size and the frames a second.

    Raises:
        ValueError: there is no encoder for any.
    """
    files[0].parent.mkdir(parents=True, exist_ok=True)
    height, width = video.first_frame.shape[:2]
    for file in files:
        for encoder in VIDEO_ENCODERS[file.suffix.lower()]:
            fourcc = cv2.VideoWriter.fourcc(*encoder)
            writer = cv2.VideoWriter(str(file), fourcc, video.fps, (width, height))
            if writer.isOpened():
                return file, writer
            file.unlink(missing_ok=True)
    raise ValueError(
        f"this OpenCV has no encoder to write {' or '.join(map(str, files))}; give --output a "
        "name ending in .avi, or install opencv-python."
    )


def draw_frame(visualizer: VideoVisualizer, frame: Array, prediction: dict[str, Any]) -> Array:
    """[H, W, 3] uint8 RGB, from the same and a prediction in Detectron2's format."""
    if "panoptic_seg" in prediction:
        ids, segments = prediction["panoptic_seg"]
        drawing = visualizer.draw_panoptic_seg_predictions(frame, ids.cpu(), segments)
    elif "logits" in prediction:
        return draw_prediction(frame, prediction, visualizer.metadata)
    elif "instances" in prediction:
        drawing = visualizer.draw_instance_predictions(frame, prediction["instances"].to("cpu"))
    else:
        drawing = visualizer.draw_sem_seg(frame, prediction["sem_seg"].argmax(dim=0).cpu())
    return drawing.get_image()
