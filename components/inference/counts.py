"""What the stitcher dropped, and why: no filter is silent."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class StitchCounts:
    """What came in, what went out, and why the rest did not.

    Parameters
    ----------
    detections : int
        Detections given.
    empty : int
        … without a pixel at the mask threshold.
    duplicates : int
        … dropped as a second detection of the same object in the same window.
    links : int
        Links between detections that were followed.
    refused : int
        Links not followed because they would have joined two detections that one window saw whole.
    vanished : int
        Groups whose mean probability reaches the threshold nowhere.
    specks : int
        Separate parts of fewer than `average.SPECK_PX` pixels taken off landslides.
    absorbed : int
        Landslides dropped because they lie inside a larger one of their class.
    slivers : int
        Slivers at a window's edge dropped beside the landslide that they were cut off from.
    instances : int
        Landslides.
    """

    detections: int = 0
    empty: int = 0
    duplicates: int = 0
    links: int = 0
    refused: int = 0
    vanished: int = 0
    specks: int = 0
    absorbed: int = 0
    slivers: int = 0
    instances: int = 0

    def plus(self, **more: int) -> StitchCounts:
        """With more added.

        Parameters
        ----------
        **more : int
            Field → number.

        Returns
        -------
        StitchCounts
        """
        return StitchCounts(**{k: n + more.get(k, 0) for k, n in asdict(self).items()})

    def as_dict(self) -> dict[str, int]:
        """Plain dictionary.

        Returns
        -------
        dict of str to int
        """
        return asdict(self)
