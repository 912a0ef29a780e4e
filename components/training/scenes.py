"""Endless simulated tiles, made while training: no disk, no tile seen twice.

Each scene is simulated under conditions of its own (`components.simulation.conditions`) and gives a few
tiles. A tile depends on (seed, index) alone, so that any number of loader processes, and a training that
was killed and resumed, see the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from components.dataset.augment import augment
from components.dataset.presets import CHANNELS, TERRAIN, render
from components.dataset.torch_dataset import Item, Objects, make_target, place_crop
from components.errors import InputError
from components.insar.noise import mad_sigma
from components.insar.relief import relative_height
from components.layers import DAYS_PER_YEAR
from components.simulation.conditions import REFERENCE, draw_conditions
from components.simulation.fields import Float, stream
from components.simulation.scene import Scene, simulate_scene

if TYPE_CHECKING:
    from components.config import PretrainConfig
    from components.training.order import Place

#: Raised when the same settings give other tiles.
ALGORITHM: Final = "scenes-4"

#: A whole map holds longer waves of the atmosphere than a scene, so its noise is larger; scenes are
#: scaled with a noise this many times their own (log-uniform).
_SIGMA_SCALE: Final = (0.6, 4.0)

#: Densities [1/1000 km²] to choose from: half of the scenes hold nothing but what can be taken for
#: landslides.
_DENSITIES: Final = (0.0, 0.0, 0.0, 300.0, 600.0, 900.0)

#: Share of scenes without terrain (C and slope unknown), and without coherence.
_NO_TERRAIN: Final = 0.2
_NO_COHERENCE: Final = 0.05

#: Limits of what is still to be found in a tile, as `DatasetConfig` has them.
MIN_PIXELS: Final = 6
MIN_VISIBLE: Final = 0.3

#: Stream names: training, validation and test share no scene, and neither does a simulated region.
TRAINING: Final = "pretrain"
VALIDATION: Final = "pretrain-validation"
TEST: Final = "pretrain-test"


@dataclass(frozen=True)
class _Rendered:
    """A scene as the network sees it."""

    image: Float
    objects: Objects


class DrawnScene(NamedTuple):
    """A scene and what a cube would hold of it.

    Parameters
    ----------
    scene : Scene
        With its truth.
    layers : dict of str to ndarray, each of shape (side, side)
        Canonical layers; terrain or coherence can be missing.
    sigma_velocity : float
        Noise that the map is given [mm/yr]: more than the scene's own, see `_SIGMA_SCALE`.
    """

    scene: Scene
    layers: dict[str, NDArray[np.generic]]
    sigma_velocity: float


class SceneTiles(Dataset[Item]):
    """Simulated tiles by index, without end.

    Parameters
    ----------
    cfg : PretrainConfig
        ``preset``, ``tile``, ``resolution_m``, ``scene_scale``, ``tiles_per_scene``, ``scenes_in_turn``
        and ``seed``.
    name : str
        `TRAINING`, `VALIDATION` or `TEST`. Training scenes are augmented and of varied conditions; the
        others are of the reference conditions and left as they are.

    Attributes
    ----------
    channels : tuple of str
        Of the preset.

    Raises
    ------
    InputError
        SW-701 for an unknown preset.

    Notes
    -----
    Item ``i`` is a tile of the scene `scene_of` says: ``image`` float32 ``[C, tile, tile]`` and a target
    as `components.dataset.torch_dataset.TileDataset` gives it. A round of ``scenes_in_turn`` scenes gives
    its tiles in turn; each is simulated once if tiles are asked for in order.
    """

    def __init__(self, cfg: PretrainConfig, name: str = TRAINING) -> None:
        if cfg.preset not in CHANNELS:
            raise InputError("SW-701", f"unknown preset {cfg.preset!r}")
        self.channels = CHANNELS[cfg.preset]
        self._cfg = cfg
        self._name = name
        self._scenes: dict[int, _Rendered] = {}

    def at(self, place: Place) -> Item:
        """Tile of a place; no tile comes twice, so the epoch says nothing.

        Parameters
        ----------
        place : Place
            Index of the tile.

        Returns
        -------
        Item
        """
        return self[place.tile]

    def __getitem__(self, index: int) -> Item:
        number, k = self._place(index)
        scene = self._kept(number)
        rng = stream(self._cfg.seed, self._name, "tile", index)
        side = self._cfg.tile
        shape = (scene.image.shape[1], scene.image.shape[2])
        if self._name == TRAINING:
            row, col = place_crop(scene.objects, side, shape, rng)
        else:  # to and fro between the edges: of two, opposite corners
            share = k / max(self._cfg.tiles_per_scene - 1, 1)
            row, col = (k % 2) * (shape[0] - side), round(share * (shape[1] - side))
        view = (slice(None), slice(row, row + side), slice(col, col + side))
        image, masks = scene.image[view], scene.objects.masks[view]
        if self._name == TRAINING:
            image, masks = augment(image, masks, self.channels, rng, pixel_m=self._cfg.resolution_m)
        target = make_target(
            scene.objects._replace(masks=masks),
            index,
            min_pixels=MIN_PIXELS,
            min_visible=MIN_VISIBLE,
        )
        return torch.from_numpy(np.ascontiguousarray(image)), target

    def scene_of(self, index: int) -> int:
        """Scene of a tile: tiles of one scene are not independent of each other.

        Parameters
        ----------
        index : int
            Of the tile.

        Returns
        -------
        int
        """
        return self._place(index)[0]

    def _place(self, index: int) -> tuple[int, int]:
        """Number of a tile's scene, and the tile's number in it."""
        together = self._cfg.scenes_in_turn
        turn, within = divmod(index, together * self._cfg.tiles_per_scene)
        k, scene = divmod(within, together)
        return turn * together + scene, k

    def _kept(self, number: int) -> _Rendered:
        """A scene of the present round; those of others are let go."""
        together = self._cfg.scenes_in_turn
        turn = number // together
        self._scenes = {n: s for n, s in self._scenes.items() if n // together == turn}
        if number not in self._scenes:
            self._scenes[number] = self._render(number)
        return self._scenes[number]

    def _render(self, number: int) -> _Rendered:
        """Simulate a scene and bring it into the preset's channels."""
        cfg = self._cfg
        rng = stream(cfg.seed, self._name, "scene", number)
        side = round(cfg.tile * cfg.scene_scale)
        drawn = draw_scene(rng, side, cfg.resolution_m, wide=self._name == TRAINING)
        return _Rendered(
            render(cfg.preset, drawn.layers, drawn.sigma_velocity), _objects(drawn.scene)
        )


def draw_scene(
    rng: np.random.Generator, side: int, resolution_m: float, *, wide: bool
) -> DrawnScene:
    """Simulate a scene under conditions that are drawn too.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness: the same state gives the same scene.
    side : int
        Of the scene [px].
    resolution_m : float
        Pixel size [m].
    wide : bool
        As training sees scenes: of varied conditions, some without terrain or coherence. Otherwise of the
        reference conditions.

    Returns
    -------
    DrawnScene
    """
    scene = simulate_scene(
        rng,
        (side, side),
        resolution_m,
        direction="ascending" if rng.uniform() < 0.5 else "descending",
        days=int(rng.integers(90, 400)),
        landslides_per_1000km2=float(rng.choice(_DENSITIES)),
        conditions=draw_conditions(rng) if wide else REFERENCE,
    )
    layers = scene_layers(scene)
    if wide and rng.uniform() < _NO_TERRAIN:
        for name in (*TERRAIN, "aspect", "elevation"):
            del layers[name]
    if wide and rng.uniform() < _NO_COHERENCE:
        del layers["coherence"]
    scale = float(np.exp(rng.uniform(*np.log(_SIGMA_SCALE)))) if wide else 1.5
    velocity = layers["los_velocity"][scene.valid]
    return DrawnScene(scene, layers, scale * (mad_sigma(velocity) if velocity.size else 1.0))


def scene_layers(scene: Scene) -> dict[str, NDArray[np.generic]]:
    """Layers of a scene as a cube would hold them.

    Parameters
    ----------
    scene : Scene
        Simulated.

    Returns
    -------
    dict of str to ndarray
        Those of the scene with displacement and velocity as ingest refers them, and relative height.
    """
    layers: dict[str, NDArray[np.generic]] = dict(scene.layers)
    known = scene.displacement[scene.valid]
    # Ingest refers displacement to the median of the map.
    displacement = scene.displacement - np.float32(np.median(known) if known.size else 0.0)
    layers["los_displacement"] = displacement
    layers["relative_height"] = relative_height(scene.elevation, scene.resolution_m)
    layers["los_velocity"] = displacement * np.float32(1e3 * DAYS_PER_YEAR / scene.days)
    return layers


def _objects(scene: Scene) -> Objects:
    labels = scene.labels
    masks = np.zeros((len(labels), *scene.valid.shape), dtype=bool)
    for mask, label in zip(masks, labels, strict=True):
        height, width = label.mask.shape
        mask[label.row : label.row + height, label.col : label.col + width] = label.mask
    return Objects(
        masks,
        np.ones(len(labels), dtype=np.int64),
        np.array([label.ignore for label in labels], dtype=bool),
        masks.sum(axis=(1, 2)).astype(float),
    )


class FixedTiles:
    """Simulated tiles that are kept in memory, for validation and tests.

    Parameters
    ----------
    tiles : SceneTiles
        Without end.
    count : int
        The first so many are kept.
    """

    def __init__(self, tiles: SceneTiles, count: int) -> None:
        self.channels = tiles.channels
        self._items = [tiles[i] for i in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


def describe(cfg: PretrainConfig) -> dict[str, Any]:
    """What a weights card says of the data.

    Parameters
    ----------
    cfg : PretrainConfig
        Settings of the scenes.

    Returns
    -------
    dict
        ``preset``, ``channels``, ``categories``, ``pixel_size_m``, ``ground_pixel_size_m``,
        ``upsample``, and ``data``: algorithm and settings of the scenes.
    """
    return {
        "preset": cfg.preset,
        "channels": list(CHANNELS[cfg.preset]),
        "categories": [{"id": 1, "name": "landslide"}],
        "pixel_size_m": cfg.resolution_m,
        "ground_pixel_size_m": cfg.resolution_m,
        "upsample": 1,
        "data": {
            "source": "simulated scenes",
            "algorithm": ALGORITHM,
            **cfg.model_dump(mode="json", exclude={"workers"}),
        },
    }
