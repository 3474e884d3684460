"""Where a Mapillary Vistas release keeps its files.

v1.2 was released alone, with ``config.json`` and its annotations directly under each split, and
again beside v2.0, with ``config_v1.2.json`` and its annotations under ``{split}/v1.2``; both
layouts are found. What this project makes lies under ``prepared``, apart from released files::

    mapillary_vistas/
      config_v1.2.json  config_v2.0.json          classes: the label files
      training/  validation/
        images/*.jpg
        v1.2/  v2.0/
          panoptic/*.png  panoptic/panoptic_{2018,2020}.json
          instances/*.png                         16 bits: label · 256 + instance
          prepared/                               written by axial_d2.data.mapillary_prepare
            manifest.json  instances.json  semantic/*.png
            panoptic/*.png  panoptic.json         unless the released ones serve as they are
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """File names of one version.

    Attributes:
        label_files: names that the label file has had, the current one first.
        panoptic_json: name of the panoptic JSON of a split.
    """

    label_files: tuple[str, ...]
    panoptic_json: str


RELEASES = {
    "v1.2": Release(("config_v1.2.json", "config.json"), "panoptic_2018.json"),
    "v2.0": Release(("config_v2.0.json",), "panoptic_2020.json"),
}
#: Our name of a split → its folder.
SPLITS = {"train": "training", "val": "validation"}
#: Pictures in the official release.
OFFICIAL_SIZES = {"train": 18000, "val": 2000}


@dataclass(frozen=True)
class PreparedFolder:
    """What preparation writes for one split."""

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def panoptic_root(self) -> Path:
        return self.path / "panoptic"

    @property
    def panoptic_json(self) -> Path:
        return self.path / "panoptic.json"

    @property
    def semantic_root(self) -> Path:
        return self.path / "semantic"

    @property
    def instances_json(self) -> Path:
        return self.path / "instances.json"

    @property
    def records(self) -> Path:
        """One JSON object a line and a finished picture, while preparation is under way."""
        return self.path / "records.jsonl"


@dataclass(frozen=True)
class MapillarySplit:
    """Files of one split of one version.

    Attributes:
        root: folder that the release was unpacked to.
        version: a key of ``RELEASES``.
        split: a key of ``SPLITS``.
    """

    root: Path
    version: str
    split: str

    @classmethod
    def of(cls, root: str | os.PathLike, version: str, split: str) -> MapillarySplit:
        """Raises ``ValueError`` for an unknown version or split."""
        for what, value, allowed in (("version", version, RELEASES), ("split", split, SPLITS)):
            if value not in allowed:
                raise ValueError(
                    f"{what} {value!r} of Mapillary Vistas is unknown; it must be "
                    f"{' or '.join(allowed)}."
                )
        return cls(Path(root).expanduser().absolute(), version, split)

    @property
    def label_file(self) -> Path:
        """The label file; the current name of it where there is none."""
        candidates = [self.root / name for name in RELEASES[self.version].label_files]
        return next((path for path in candidates if path.is_file()), candidates[0])

    @property
    def folder(self) -> Path:
        return self.root / SPLITS[self.split]

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def annotations(self) -> Path:
        """Folder of ``panoptic``, ``instances`` and ``prepared``."""
        nested = self.folder / self.version
        released_alone = self.version == "v1.2" and any(
            (self.folder / name).is_dir() for name in ("panoptic", "instances")
        )
        return self.folder if released_alone and not nested.is_dir() else nested

    @property
    def panoptic_root(self) -> Path:
        return self.annotations / "panoptic"

    @property
    def panoptic_json(self) -> Path:
        return self.panoptic_root / RELEASES[self.version].panoptic_json

    @property
    def instances(self) -> Path:
        return self.annotations / "instances"

    @property
    def prepared(self) -> PreparedFolder:
        return PreparedFolder(self.annotations / "prepared")

    def require_label_file(self) -> Path:
        """The label file; raises ``FileNotFoundError`` where there is none."""
        if not self.label_file.is_file():
            names = " or ".join(RELEASES[self.version].label_files)
            raise FileNotFoundError(
                f"{self.root} holds no {names}, so it is no folder of Mapillary Vistas "
                f"{self.version}. Unpack the release there, so that {names}, "
                f"{' and '.join(SPLITS.values())} lie side by side in it."
            )
        return self.label_file
