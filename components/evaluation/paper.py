"""Table 2 of Liu et al. (2022), and why it cannot be set against ours."""

from __future__ import annotations

from typing import Final, NamedTuple


class Row(NamedTuple):
    """A row of the paper's table.

    Parameters
    ----------
    form : str
        Our form on the same idea, without the suffix of its trunk.
    label : str
        The paper's change.
    accuracy, f1, miou : float
        Per cent, as printed.
    """

    form: str
    label: str
    accuracy: float
    f1: float
    miou: float


#: doi:10.3390/rs14143362, Table 2.
TABLE2: Final = (
    Row("baseline", "Mask R-CNN", 89.19, 81.24, 84.38),
    Row("resnext", "+ ResNeXt", 90.44, 81.63, 85.02),
    Row("resnext-dcb", "+ deformable", 91.37, 82.58, 87.19),
    Row("resnext-dcb-cbam", "+ CBAM", 92.86, 84.06, 86.42),
    Row("resnext-dcb-sa", "+ self-attention", 92.94, 84.12, 90.26),
)

#: Why no figure of the paper's can be compared with one of ours.
NOT_COMPARABLE: Final = (
    (
        "The paper's F1 of 84.12 % implies an IoU of 72.6 % on the same counts, not 90.26 %; all five rows "
        "break F1 = 2·IoU/(1+IoU). F1 and mIoU must have different bases, presumably objects and matched "
        "masks."
    ),
    (
        'Its formulas call false positives and false negatives alike "incorrectly extracted", and true '
        "negatives of detections are undefined; accuracy and F1 together imply about four true negatives a "
        "true positive, so tiles centred on landslides and not a region. Half of our scenes hold no "
        "landslide."
    ),
    (
        "Its 636 samples were split at random: tiles of one landslide can lie on both sides. Our test "
        "scenes are scenes of their own."
    ),
    (
        "Its networks started from COCO weights on ResNet-101; ours start from random weights on the "
        "trunk that the form names."
    ),
    "Its ground is real and its data are not public; ours is simulated.",
    "It gives one run a row, no interval and no range over seeds.",
)
