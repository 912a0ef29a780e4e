"""Random fields, smoothing and up-sampling: the tools that the other modules share.

Everything is float32, draws only from an explicit generator, and does not depend on the number of
threads: the same seed gives the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Labels = NDArray[np.int32]

#: Power spectral density [unit² m²] as a function of wavenumber [cycles/m].
Psd = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# The field is drawn on a domain larger than the scene by this factor and cut, because a spectral
# draw is periodic: without it the left and right edge of a scene would match.
_PADDING = 1.25


def stream(seed: int, *keys: str | int) -> np.random.Generator:
    """A generator of its own for one part of a simulation.

    Parts have independent streams, so that adding a track or a period changes no other part.

    Parameters
    ----------
    seed : int
        Seed of the whole, >= 0.
    *keys : str or int
        Name of the part.

    Returns
    -------
    numpy.random.Generator
    """
    numbers = [k if isinstance(k, int) else zlib.crc32(k.encode()) for k in keys]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(numbers)))


class SpectralField:
    """Sampler of stationary Gaussian fields with a given isotropic spectrum.

    Parameters
    ----------
    shape : (int, int)
        Height and width [px].
    spacing_m : float
        Pixel size [m].
    psd : callable
        Two-dimensional power spectral density [unit² m²] over wavenumber [cycles/m]; the variance
        of the field is its integral over the plane. The mean (wavenumber 0) is left out.
    """

    def __init__(self, shape: tuple[int, int], spacing_m: float, psd: Psd) -> None:
        self._shape = shape
        ny, nx = (int(fft.next_fast_len(int(np.ceil(n * _PADDING)), real=True)) for n in shape)
        ky = np.fft.fftfreq(ny, spacing_m)[:, None]
        kx = np.fft.rfftfreq(nx, spacing_m)[None, :]
        k = np.hypot(ky, kx)
        k[0, 0] = 1.0
        cell = 1.0 / (ny * nx * spacing_m**2)  # area of a wavenumber cell [m⁻²]
        # 1/√2: the complex noise has unit variance in each of its two parts
        amplitude = ny * nx * np.sqrt(psd(k) * cell / 2.0)
        amplitude[0, 0] = 0.0
        # The inverse transform drops the imaginary part of what the columns 0 and Nyquist should
        # have had as Hermitian pairs: half their power, put back here.
        amplitude[:, 0] *= np.sqrt(2.0)
        if nx % 2 == 0:
            amplitude[:, -1] *= np.sqrt(2.0)
        self._amplitude: Float = amplitude.astype(np.float32)
        self._padded = (ny, nx)

    def draw(self, rng: np.random.Generator) -> Float:
        """Draw one field.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        ndarray of float32 [H, W]
        """
        noise = rng.standard_normal((*self._amplitude.shape, 2), dtype=np.float32)
        spectrum = noise.view(np.complex64)[..., 0]
        spectrum *= self._amplitude
        field: Float = fft.irfft2(spectrum, s=self._padded, workers=2, overwrite_x=True)
        height, width = self._shape
        return np.ascontiguousarray(field[:height, :width])


def _spline_rows(coarse: Float, position: NDArray[np.float64]) -> Float:
    """Evaluate uniform cubic B-splines with coefficients along axis 0 at positions in knots."""
    m, n = coarse.shape[0], position.size
    base = np.floor(position).astype(int)
    t = position - base
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    )
    scaled: Float = (weights / 6.0).astype(np.float32)[:, :, None]
    knots = np.clip(base + np.arange(-1, 3)[:, None], 0, m - 1)
    out = np.empty((n, coarse.shape[1]), dtype=np.float32)
    # In strips that stay in the processor's cache; whole maps would stream through memory 12 times.
    strip = max(1, 65_536 // max(coarse.shape[1], 1))
    for start in range(0, n, strip):
        rows = slice(start, start + strip)
        total = scaled[0, rows] * coarse[knots[0, rows]]
        for k in range(1, 4):
            total += scaled[k, rows] * coarse[knots[k, rows]]
        out[rows] = total
    return out


def upsample(coarse: Float, shape: tuple[int, int]) -> Float:
    """Smooth enlargement of a coarse field by cubic B-splines (which also smooth a little).

    Written as four weighted sums, not as matrix products, whose order of summation would depend on
    the number of threads.

    Parameters
    ----------
    coarse : ndarray of float32 [h, w]
        Cell means of a grid that covers the same ground.
    shape : (int, int)
        Height and width wanted.

    Returns
    -------
    ndarray of float32 [H, W]
    """
    rows, cols = (
        (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(shape, coarse.shape, strict=True)
    )
    return _evaluate(coarse, rows, cols)


def _evaluate(coarse: Float, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Float:
    # Columns first: the transposed intermediate is the smaller one.
    wide = _spline_rows(np.ascontiguousarray(coarse.T, dtype=np.float32), cols)
    return _spline_rows(np.ascontiguousarray(wide.T), rows)


def block_mean(field: Float, factor: int) -> Float:
    """Mean over blocks of ``factor`` × ``factor`` pixels; the last row and column are repeated.

    Parameters
    ----------
    field : ndarray of float32 [H, W]
        Any field.
    factor : int
        Block side [px], >= 1.

    Returns
    -------
    ndarray of float32 [ceil(H / factor), ceil(W / factor)]
    """
    if factor == 1:
        return field
    height, width = field.shape
    padded = np.pad(field, ((0, -height % factor), (0, -width % factor)), mode="edge")
    h, w = padded.shape[0] // factor, padded.shape[1] // factor
    out: Float = padded.reshape(h, factor, w, factor).mean(axis=(1, 3), dtype=np.float32)
    return out


def smooth(field: Float, sigma_px: float) -> Float:
    """Gaussian smoothing; wide kernels work on block means, which changes nothing one can see.

    Parameters
    ----------
    field : ndarray of float32 [H, W]
        Field without NaN.
    sigma_px : float
        Standard deviation of the kernel [px].

    Returns
    -------
    ndarray of float32 [H, W]
    """
    factor = max(1, int(sigma_px // 4))
    height, width = field.shape
    if factor == 1 or min(field.shape) < 8 * factor:
        out: Float = ndimage.gaussian_filter(field, sigma_px, mode="nearest", truncate=3.0)
        return out
    coarse = block_mean(field, factor)
    # The block mean and the B-spline each bring a variance of their own (1/12 and 1/3 block²).
    sigma = np.sqrt(max((sigma_px / factor) ** 2 - 5.0 / 12.0, 0.01))
    coarse = ndimage.gaussian_filter(coarse, sigma, mode="nearest", truncate=3.0)
    padded = (coarse.shape[0] * factor, coarse.shape[1] * factor)
    return np.ascontiguousarray(upsample(coarse, padded)[:height, :width])


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], spacing_m: float, length_m: float
) -> Float:
    """Gaussian noise of zero mean and unit variance, correlated over about a length.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : (int, int)
        Height and width [px].
    spacing_m : float
        Pixel size [m].
    length_m : float
        Distance of the spline knots [m]; features are about twice as large.

    Returns
    -------
    ndarray of float32 [H, W]
    """
    knot_px = max(length_m / spacing_m, 1.0)
    # A border of knots outside the scene keeps the variance equal up to the edge.
    knots = tuple(int(np.ceil(n / knot_px)) + 4 for n in shape)
    coarse = rng.standard_normal(knots, dtype=np.float32)
    rows, cols = ((np.arange(n, dtype=np.float64) + 0.5) / knot_px + 1.5 for n in shape)
    field = _evaluate(coarse, rows, cols)
    # Mean over all phases of Σ weights² of the cubic B-spline is 151/315 an axis.
    field /= np.float32(151.0 / 315.0)
    return field
