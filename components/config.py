"""Configuration: one frozen section a stage, every field with its unit and bounds.

Unknown keys are refused at every level. Functions of the components take their own section, never the whole
configuration. Files of settings are read and written in `components.config_file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Preset = Literal["fringe_rgb", "sincos", "rate", "multi", "terrain"]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RegionConfig(Section):
    """The region grid. Left empty, the first ingested product's grid is taken."""

    crs: str | None = None
    """Projected CRS, e.g. `EPSG:32633`; empty: the product's own, or its UTM zone if it is geographic."""
    resolution_m: float | None = Field(default=None, gt=0)
    """Pixel size [m]; empty: the product's own."""
    bounds: tuple[float, float, float, float] | None = None
    """West, south, east, north in `crs` [m]; empty: the product's extent."""
    dem: Path | None = None
    """Elevation raster [m] for products that bring none."""


class SimulateConfig(Section):
    """A simulated region with exact truth, written as HyP3 products."""

    seed: int = Field(default=1, ge=0)
    """Seed: the same seed gives the same bytes."""
    height: int = Field(default=2048, ge=128)
    """Rows [px]."""
    width: int = Field(default=2048, ge=128)
    """Columns [px]."""
    resolution_m: float = Field(default=25.0, gt=0)
    """Pixel size [m]."""
    epsg: int = 32647
    """UTM zone of the region (EPSG code)."""
    tracks: tuple[Literal["ascending", "descending"], ...] = ("descending",)
    """Orbit directions to simulate."""
    periods: int = Field(default=2, ge=1, le=60)
    """Number of consecutive periods."""
    period_days: int = Field(default=180, ge=6, le=720)
    """Length of a period [days]."""
    start: str = "2023-01-01"
    """First day of the first period (ISO date)."""
    landslides_per_1000km2: float = Field(default=300.0, ge=0)
    """Density of landslides on slopes of 10 to 45 degrees; 0 gives a landslide-free null map."""
    dem: Path | None = None
    """Elevation raster [m] to use instead of generated terrain."""


class IngestConfig(Section):
    """From products to the period cube."""

    coherence_min: float = Field(default=0.3, ge=0, le=1)
    """Pixels of lower coherence are not valid."""
    reference: Literal["component", "median", "none"] = "component"
    """Referencing: subtract the median displacement of stable coherent ground, of each separated component or
    of the whole map, or nothing."""
    reference_coherence: float = Field(default=0.7, ge=0, le=1)
    """Coherence of the ground used for referencing (lowered in steps where too little reaches it)."""
    reference_km2_min: float = Field(default=25.0, gt=0)
    """Components of less valid ground [km²] take the reference of the nearest larger one: a landslide that
    decorrelated ground cuts off must keep its motion."""
    resampling: Literal["bilinear", "nearest", "cubic"] = "bilinear"
    """Method of the one reprojection onto the region grid."""
    chunk: int = Field(default=256, ge=16)
    """Zarr chunk side [px]."""
    shard: int = Field(default=1024, ge=16)
    """Zarr shard side [px], a multiple of `chunk`."""
    incidence_deg: float | None = Field(default=None, gt=0, lt=90)
    """Incidence angle [deg] for products that bring no geometry."""
    heading_deg: float | None = Field(default=None, ge=-360, le=360)
    """Flight heading [deg, clockwise from north] for products that bring no geometry."""
    track: str | None = None
    """Track name for products that do not name theirs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shard % self.chunk:
            msg = f"shard ({self.shard}) must be a multiple of chunk ({self.chunk})"
            raise ValueError(msg)
        return self


class TileConfig(Section):
    """From the cube to training tiles."""

    size: int = Field(default=256, ge=32)
    """Tile side before up-sampling [px]."""
    stride: int = Field(default=192, ge=8)
    """Distance of neighbouring tiles [px], at most `size`."""
    upsample: Literal[1, 2, 3] = 1
    """Up-sampling factor of the tiles."""
    valid_fraction_min: float = Field(default=0.2, ge=0, le=1)
    """Tiles with a smaller share of valid pixels are left out (and counted)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stride > self.size:
            msg = f"stride ({self.stride}) must not exceed size ({self.size})"
            raise ValueError(msg)
        return self


class DatasetConfig(Section):
    """From interpreters' polygons and tiles to a COCO dataset."""

    labels: Path | None = None
    """Polygon layer (shapefile, GeoPackage, GeoJSON); simulated regions bring their own."""
    preset: Preset = "rate"
    """Model input channels."""
    category_attribute: str | None = None
    """Attribute that holds the category; empty: every polygon is `landslide`."""
    categories: tuple[str, ...] = ("landslide",)
    """Category names; category ids count from 1 in this order."""
    split: Literal["blocks", "random"] = "blocks"
    """Spatial blocks with a buffer, or the paper's random split (leaks between neighbours)."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of train, val and test."""
    block_km: float = Field(default=10.0, gt=0)
    """Side of a split block [km]."""
    min_visible: float = Field(default=0.3, ge=0, le=1)
    """Landslides cut by a tile edge to less than this share are `iscrowd` (ignored in training)."""
    min_pixels: int = Field(default=6, ge=1)
    """Objects of fewer pixels in a tile are `iscrowd`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) < 0:
            msg = f"fractions must be >= 0 and sum to 1; got {self.fractions}"
            raise ValueError(msg)
        return self


class PretrainConfig(Section):
    """Endless simulated tiles to train on (`slopewatch pretrain`)."""

    preset: Preset = "multi"
    """Model input channels."""
    tile: int = Field(default=192, ge=64)
    """Side of a tile [px]."""
    resolution_m: float = Field(default=25.0, gt=0)
    """Pixel size [m]; the weights fit maps of this pixel size."""
    scene_scale: float = Field(default=1.5, ge=1)
    """Side of a scene in tiles: larger scenes hold larger landslides whole, and more of the relief."""
    tiles_per_scene: int = Field(default=2, ge=1)
    """Tiles cut from one scene."""
    scenes_in_turn: int = Field(default=1, ge=1)
    """Scenes from which neighbouring tiles come in turn, so that a small step sees several. Every process
    that simulates keeps all of them in memory, and simulates those of which another takes tiles too."""
    tiles_per_epoch: int = Field(default=800, ge=1)
    """Tiles between two checkpoints."""
    validation_tiles: int = Field(default=240, ge=0)
    """Tiles of other simulated scenes on which the weights are chosen; 0 keeps the last."""
    workers: int = Field(default=1, ge=0)
    """Processes that simulate; 0: the training process itself. The tiles do not depend on it."""
    seed: int = Field(default=1, ge=0)
    """Seed of the scenes; those from 900000 to 999999 belong to benchmarks and are refused."""


class VerifierConfig(Section):
    """Fitting the second look of weights on simulated scenes (`slopewatch verifier`)."""

    scenes: int = Field(default=800, ge=5)
    """Scenes to detect on; one in four is large, one in five is left out of the fit and tells its worth."""
    side: int = Field(default=1536, ge=320)
    """Side of a large scene [px]; the others have two fifths of it."""
    workers: int = Field(default=0, ge=0)
    """Processes that simulate and detect, a core each; 0: one a core. The result does not depend on it."""
    seed: int = Field(default=1, ge=0)
    """Seed of scenes and fit; those from 900000 to 999999 belong to benchmarks and are refused."""


class TrainConfig(Section):
    """Network and training."""

    model: str = "demo"
    """Network form: `slopewatch models` lists them."""
    epochs: int = Field(default=20, ge=1)
    """Epochs at most."""
    batch_size: int = Field(default=4, ge=1)
    """Images a step."""
    crop: int | None = Field(default=None, ge=64)
    """Side of the random crop taken from a tile [px]; empty: the whole tile."""
    negative_share: float = Field(default=0.5, ge=0, lt=1)
    """Tiles without landslides are repeated, up to four times an epoch, to reach this share of it."""
    schedule: Literal["cosine", "paper"] = "cosine"
    """`cosine`: AdamW, warm-up, cosine decay, averaged weights; `paper`: SGD, 0.01 for the heads, then
    0.001 for all layers, half the epochs each (the next four keys are not used)."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """AdamW weight decay."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps of linear warm-up."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; 0 switches it off."""
    patience: int = Field(default=1000, ge=1)
    """Early stop after so many epochs without a better validation score."""
    validate_every: int = Field(default=5, ge=1)
    """Validation every so many epochs."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the processor computes in it, else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device."""
    devices: int = Field(default=1, ge=1)
    """GPUs (or, on a CPU, processes) that share every step; `batch_size` counts the images of all."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; empty: all cores. Results are reproducible for the same number."""
    workers: int = Field(default=0, ge=0)
    """Processes that load tiles; 0: the training process itself. The samples are the same."""
    initial_weights: Path | None = None
    """Weights to start from instead of random ones (.safetensors)."""
    pretrained: str | None = None
    """Torchvision's weights to start from: a name such as `resnet50`, or a file; as far as they fit."""
    allow_download: bool = False
    """Whether `pretrained` may be fetched where it is not in torch's cache."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialisation, order and augmentation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.initial_weights is not None and self.pretrained is not None:
            msg = "give initial_weights or pretrained, not both"
            raise ValueError(msg)
        return self


class InferConfig(Section):
    """Windowed inference and stitching."""

    weights: Path | None = None
    """Weights (.safetensors with its card beside it); empty: those trained in the workspace."""
    window: int = Field(default=512, ge=64)
    """Window side [px]."""
    context: int = Field(default=352, ge=64)
    """Ground that the network sees at least, a side [px]: smaller windows are read with their surroundings.
    With less than its training tiles (192 px for the released weights) a network makes false alarms, and
    what a window cuts is drawn as well as what it holds whole only with some 48 px around it."""
    overlap: float = Field(default=0.2, ge=0, lt=1)
    """Shared fraction of neighbouring windows."""
    scales: tuple[int, ...] = (1,)
    """Scales of the windows: `[1, 2]` adds a pass over windows of twice the ground at half the resolution."""
    coarse_min_share: float = Field(default=0.5, gt=0)
    """Landslides of a coarser pass count from this length on, as a share of the finest window's side."""
    augment: Literal["none", "flips"] = "none"
    """`flips`: the network also sees every window mirrored, and means count; four times the cost."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Windows a forward pass; halved where memory runs out."""
    quiet_sigma: float = Field(default=0.2, ge=0)
    """Windows in which nothing stands out by so many σ are skipped (and counted); 0: none."""
    valid_fraction_min: float = Field(default=0.02, ge=0, le=1)
    """Windows with a smaller share of valid pixels are skipped (and counted)."""
    score_min: float = Field(default=0.05, ge=0, le=1)
    """Detections of lower score are not kept."""
    seam_iou: float = Field(default=0.3, gt=0, le=1)
    """Masks join where their IoU inside the ground that both windows saw reaches this."""
    containment: float = Field(default=0.7, gt=0, le=1)
    """… or where this share of the smaller piece lies inside the other."""
    mask_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Averaged mask probability of a landslide pixel."""
    max_detections: int = Field(default=200, ge=1)
    """Detections a window at most; reaching it is reported."""
    proposals: int | None = Field(default=None, ge=1)
    """Proposals a window, which limit its detections too; empty: those of the network form."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device."""
    precision: Literal["auto", "int8", "bfloat16", "float32"] = "auto"
    """Numbers that the network computes in; `auto`: the first for which processor and weights are made."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; empty: all cores."""
    dask: str | None = Field(default=None, pattern=r"^(local:[1-9]\d*|(tcp|tls|ucx)://.+)$")
    """Dask cluster that computes the windows: `local:2` (processes here) or a scheduler, `tcp://host:8786`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.scales or self.scales[0] != 1 or list(self.scales) != sorted(set(self.scales)):
            msg = f"scales must begin with 1 and grow; got {list(self.scales)}"
            raise ValueError(msg)
        return self


class InventoryConfig(Section):
    """From stitched landslides to the inventory."""

    score_min: float | None = Field(default=None, ge=0, le=1)
    """Operating threshold; empty: the one in the weights' card (best F1 on validation)."""
    min_pixels: int = Field(default=12, ge=1)
    """Minimum mapping unit [px]."""
    lineage_iou: float = Field(default=0.3, gt=0, le=1)
    """Landslides of two periods are one lineage from this IoU …"""
    lineage_overlap: float = Field(default=0.5, gt=0, le=1)
    """… or from this intersection over the smaller area."""
    vertical: Literal["drop", "keep"] = "drop"
    """Landslides whose motion two tracks show to be vertical (heave, settlement, subsidence): left out and
    counted, or kept with `motion` in the table."""
    brightness_cycle_mm: float = Field(default=27.7, gt=0)
    """Displacement of one colour cycle of the fringe render [mm]; 27.7 mm is half the wavelength."""


class EvaluateConfig(Section):
    """Metrics on held-out ground."""

    labels: Path | None = None
    """Reference polygons; empty: those of the dataset."""
    area: Literal["test", "all"] = "test"
    """Evaluate inside the test blocks, or on the whole map."""
    iou: float = Field(default=0.5, gt=0, le=1)
    """Mask IoU of a match."""
    min_pixels: int = Field(default=12, ge=1)
    """Smaller reference objects are ignored, neither hit nor miss."""
    baseline_sigma: float = Field(default=2.0, gt=0)
    """Threshold of the baseline in standard deviations of the map."""


class ExperimentsConfig(Section):
    """Comparison of networks (`slopewatch benchmark networks`)."""

    suffix: str = "-small"
    """Trunk of the five rows: `-small`, `-50`, or nothing for ResNet-101."""
    baselines: tuple[str, ...] = ("baseline-small", "plain-small", "unet")
    """Forms to set side by side; the first is the one that the others are compared with."""
    epoch_steps: int = Field(default=100, ge=1)
    """Steps between two checkpoints, about."""
    test_tiles: int = Field(default=600, ge=2)
    """Simulated test tiles."""
    sample: tuple[int, int, int] = (380, 128, 128)
    """Tiles of train, val and test in the small sample."""
    landslides: int = Field(default=421, ge=4)
    """Labelled landslides at hand where the gain of pre-training is measured."""
    region_side: int = Field(default=3072, ge=256)
    """Side of the regions of both [px]."""
    region_seed: int = Field(default=910_000, ge=910_000, lt=999_999)
    """Seed of the first region; the independent one has the next."""


class Config(Section):
    """All sections."""

    region: RegionConfig = RegionConfig()
    simulate: SimulateConfig = SimulateConfig()
    ingest: IngestConfig = IngestConfig()
    tile: TileConfig = TileConfig()
    dataset: DatasetConfig = DatasetConfig()
    pretrain: PretrainConfig = PretrainConfig()
    train: TrainConfig = TrainConfig()
    verifier: VerifierConfig = VerifierConfig()
    infer: InferConfig = InferConfig()
    inventory: InventoryConfig = InventoryConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    experiments: ExperimentsConfig = ExperimentsConfig()
