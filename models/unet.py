"""U-Net with connected components: the usual semantic segmentation, behind a detector's interface.

A probability map from a U-Net (Ronneberger et al. 2015, arXiv:1505.04597, with padded convolutions and
normalisation) is thresholded and cut into connected components of 8 neighbours. A component is a
detection; its score is its mean probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.contrast import LocalContrast
from models.forms import UNetSpec
from models.guide import PRIOR, segmentation_loss
from models.images import ImagesAsTheyAre
from models.norms import TRUNK_NORMS, NormLayer
from models.regions import label_regions


def _double(in_channels: int, channels: int, norm: NormLayer) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        norm(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        norm(channels),
        nn.ReLU(inplace=True),
    )


class ComponentUNet(nn.Module):
    """U-Net whose thresholded map is cut into components.

    In training, ``model(images, targets)`` returns the loss ``loss_segmentation``; in evaluation,
    ``model(images)`` returns one dictionary an image, as `models.mask_rcnn.SmallObjectMaskRCNN` does,
    except that ``masks`` is a list of float32 [h, w]: probabilities of the pixels of the box, which has
    whole pixels as its edges; pixels of other components are 0.

    Parameters
    ----------
    spec : UNetSpec
        The form.
    in_channels : int
        Channels of the image.
    num_classes : int
        Classes with background.
    max_detections : int
        Detections an image at most, those of the best scores.
    score_min : float
        Detections of lower score are dropped.
    """

    def __init__(
        self,
        spec: UNetSpec,
        in_channels: int,
        num_classes: int,
        *,
        max_detections: int,
        score_min: float,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.max_detections = max_detections
        self.score_min = score_min
        norm = TRUNK_NORMS[spec.norm]
        widths = spec.widths
        self.transform = ImagesAsTheyAre(2 ** (len(widths) - 1))
        self.contrast = LocalContrast(spec.contrast_window) if spec.contrast_window else None
        entry = in_channels if self.contrast is None else self.contrast.planes(in_channels)
        self.down = nn.ModuleList(
            _double(a, b, norm) for a, b in zip((entry, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        coarse_to_fine = tuple(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in coarse_to_fine)
        self.merge = nn.ModuleList(_double(2 * b, b, norm) for _, b in coarse_to_fine)
        self.logits = nn.Conv2d(widths[0], num_classes - 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.logits.bias is not None:
            nn.init.constant_(self.logits.bias, math.log(PRIOR / (1 - PRIOR)))

    def segment(self, batch: Tensor) -> Tensor:
        """Logits of the classes.

        Parameters
        ----------
        batch : Tensor
            float [B, in_channels, H, W]; H and W multiples of the coarsest stride.

        Returns
        -------
        Tensor
            float [B, num_classes − 1, H, W].
        """
        x = batch.contiguous(memory_format=torch.channels_last)
        if self.contrast is not None:
            x = self.contrast(x)
        skips: list[Tensor] = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.logits(x)
        return logits

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor | list[Tensor]]]:
        """Losses in training, detections in evaluation (see the class).

        Parameters
        ----------
        images : sequence of Tensor
            float32 [C, H, W] each, normalised.
        targets : sequence of dict, optional
            As for `models.mask_rcnn.SmallObjectMaskRCNN`; needed in training.

        Returns
        -------
        dict of Tensor or list of dict
            As the class says.

        Raises
        ------
        ValueError
            Where training lacks targets, or images have another number of channels.
        """
        self.transform.check(images, targets, self.in_channels)
        batch, shifted = self.transform(images, targets)
        logits = self.segment(batch.tensors)
        if self.training:
            return {
                "loss_segmentation": segmentation_loss(
                    logits, shifted or [], batch.tensors.shape[-2:]
                )
            }
        return [
            self._components(image[:, :height, :width].float().sigmoid())
            for image, (height, width) in zip(logits, batch.image_sizes, strict=True)
        ]

    def _components(self, prob: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """Detections of one image from its probabilities [classes, H, W]."""
        boxes, labels, scores, masks = [], [], [], []
        for category, layer in enumerate(prob, start=1):
            regions = label_regions(layer >= self.spec.threshold)
            count = int(regions.max()) if regions.numel() else 0
            sizes = torch.bincount(regions.flatten(), minlength=count + 1)
            sums = torch.bincount(regions.flatten(), layer.double().flatten(), count + 1)
            means = (sums / sizes.clamp(min=1))[1:]
            kept = torch.nonzero(means >= self.score_min).flatten()
            best = kept[means[kept].argsort(descending=True, stable=True)][: self.max_detections]
            for region in (best + 1).tolist():
                inside = regions == region
                rows = torch.nonzero(inside.any(dim=1)).flatten()
                cols = torch.nonzero(inside.any(dim=0)).flatten()
                window = (
                    slice(int(rows[0]), int(rows[-1]) + 1),
                    slice(int(cols[0]), int(cols[-1]) + 1),
                )
                own = (regions[window] == region) | (regions[window] == 0)
                boxes.append([window[1].start, window[0].start, window[1].stop, window[0].stop])
                labels.append(category)
                scores.append(means[region - 1])
                masks.append(layer[window] * own)
        score = torch.stack(scores).float() if scores else prob.new_zeros(0)
        order = score.argsort(descending=True, stable=True)[: self.max_detections]
        return {
            "boxes": prob.new_tensor(boxes).view(-1, 4)[order],
            "labels": torch.tensor(labels, dtype=torch.int64, device=prob.device)[order],
            "scores": score[order],
            "masks": [masks[i] for i in order.tolist()],
        }
