"""Alpha and colours of the subject at the photo's full resolution.

A pixel of hair shows I = a F + (1 - a) B: the subject's colour F mixed with the old background's B. Pasted as it is,
it carries B onto every new background. `estimate_foreground` finds F, `refine` a better a than the network's, and
`touch_up` lets a brush have the last word. Each solves on a small copy and carries the answer to full size by a
model of the pixels nearby, so that it costs little more for 12 megapixels than for one.

pymatting has both methods at full size alone: for 12 megapixels its `estimate_foreground_ml` takes 1190 ms where ours
takes 40 to 85, or 180 where most pixels are partial, and its closed-form matting about 10 s where `refine` takes 0.2 to
0.6; numba, which it needs, takes another 1.7 s to import (two cores of a server).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

CHUNK = 1 << 14  # pixels that a thread works on at a time: they stay in its cache, and OpenCV remaps below 2^15 at once
PIECE = 1 << 18  # pixels among which a thread looks for those to work on

COLOUR_SIDE = 320  # pixels: longer side of the copy on which F and B are solved for
COARSE = 32  # pixels: levels up to this side get more iterations, since all that follows builds on them
COARSE_ITERATIONS, ITERATIONS = 12, 5
RADIUS = 0.9  # spectral radius that Jacobi's iteration is taken to have, on which its acceleration depends
EDGE_WEIGHT = 0.1  # how firmly neighbours are held together where alpha changes between them
KNOWN = 0.98  # alpha from which a pixel shows F alone, and below 1 minus which it shows B alone
NOISE = 1e-7  # variance of what the mixing equation leaves unexplained, in squares of 0..1
SMOOTHNESS = 1e-4, 0.2  # least and most of how firmly neighbours are held together everywhere
DAMPING = 0.03  # keeps what is left of a pixel's equation from being blown up where alpha is near 0

# What `refine` needs was tried on 187 scenes of 5 folds: benchmarks/refinement.py has what other values come to.
ALPHA_SIDE = 800  # pixels: longer side of the copy on which `touch_up` solves, and at which the lengths below are meant
WIDE_SIDES, EDGE_SIDE = (64, 128, 192), 512  # pixels: longer sides of the copies on which `refine` solves in turn
UNSURE = 0.1  # the network's word counts below this and above 1 minus this
BAND_MARGIN = 2  # pixels by which the band exceeds what is unsure
CORES, GROWTH = (4, 8), 3  # what is unsure and wider than 2 CORE gets GROWTH CORE more
THIN, GAP = 0.6, 0.95  # matte, and 1 minus it, from which the middle of a part or a gap is sure, however thin
THIN_REACH = 4  # pixels around the middle to compare it with
LEAST_KNOWN = 0.005  # share of the photo that must be surely subject, and surely background
DECIDED_AROUND, DECIDED_POWER = 2, 8  # pixels of a copy around, and how much the more decided of two alphas prevails
CHANGE_WEIGHT = 0.5  # of a new alpha against the matte's where both are as decided
DETAIL, DETAIL_AROUND = 0.1, 4  # mean detail of a matte, and pixels around, at which a coarser copy has no say
SAME = 0.7  # IoU, at 0.5, of a matte and what it was settled to, below which it is not
TRUST = 0.3  # how firmly alpha is held to a matte that is sure, against 1 for what a window of the photo says
LEVEL = 0.08  # matte that at the edges means 0, and 1 minus it 1: the network's edges are wider than the photo's
COLOUR_NOISE = 1e-6  # variance of the colours (0..1) that a window of the matting Laplacian takes for noise
TOLERANCE = 1e-3  # the error that the conjugate gradients leave
STEPS = 600, 300, 200  # most steps that they take, at a quarter, at half and at whole size
SNAP = 0.01  # alpha closer than this to 0 or 1 is 0 or 1
WIDE, WIDE_DOUBT = 32, (0.2, 0.4)  # pixels around, and the mean of 4 m (1 - m) there from which doubt is not an edge's
CARRY_NOISE = 1e-4  # the same as COLOUR_NOISE for the linear model that goes to full size


# The matting Laplacian's geometry, in (y, x): the pixels of a window, and those that share some window with a pixel.
WINDOW = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
REACH = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3))
ITSELF = REACH.index((0, 0))
# For pixels i and j of a window, as they are numbered in WINDOW: where in REACH of i is j.
FROM_TO = tuple(tuple(REACH.index((to_y - y, to_x - x)) for to_y, to_x in WINDOW) for y, x in WINDOW)


# --- colours -------------------------------------------------------------------------------------------


def estimate_foreground(photo: Pixels, alpha: Pixels) -> Pixels:
    """The subject's colours, H x W x 3, where `alpha` (H x W, straight) is partial; the photo's own elsewhere.

    Minimises (a F + (1 - a) B - I)^2 plus smoothness of F and B, coarse to fine (Germer et al., "Fast Multi-Level
    Foreground Estimation", ICPR 2020), on a small copy. F and B are each held together as firmly as their known
    pixels are alike, so that a plain background is recovered exactly and a busy one is not smeared. At full size
    each pixel's F then takes up what is left of its own equation.
    """
    partial = (alpha > 0) & (alpha < 255)
    if not partial.any():
        return photo
    small = _small_size(alpha, COLOUR_SIDE)
    solved = _solve_colours(_unit(_shrink(photo, small)), _unit(_shrink(alpha, small)))
    foreground, background = (
        _resize(_bytes(colours), alpha.shape[::-1], cv2.INTER_LINEAR).reshape(-1, 3) for colours in solved
    )
    out = photo.copy()
    pixels, colours, flat = photo.reshape(-1, 3), out.reshape(-1, 3), alpha.reshape(-1)

    def fit(at: NDArray[Any]) -> None:
        """F near the smooth one such that a F + (1 - a) B comes close to I."""
        a = _unit(np.take(flat, at))[:, np.newaxis]
        f, b = (np.take(smooth, at, axis=0).astype(np.float32) for smooth in (foreground, background))
        b *= a - 1
        b += np.take(pixels, at, axis=0)
        b -= a * f
        b *= a / (a * a + DAMPING)
        f += b
        colours[at] = np.rint(np.clip(f, 0, 255, out=f), out=f)

    _in_chunks(fit, partial)
    return out


def _solve_colours(image: Floats, alpha: Floats) -> Floats:
    """F and B, 2 x h x w x 3 in 0..1, from one pixel to the size of `image`."""
    height, width = alpha.shape
    levels = int(np.ceil(np.log2(max(height, width, 2))))
    smoothness = _smoothness(image, alpha)
    colours: Floats = np.broadcast_to(image.mean((0, 1)).reshape(3, 1, 1), (2, 3, 1, 1))
    for level in range(levels + 1):
        size = max(1, round(width ** (level / levels))), max(1, round(height ** (level / levels)))
        i, a = (_resize(values, size, cv2.INTER_AREA) for values in (image, alpha))
        i = np.ascontiguousarray(np.moveaxis(i, 2, 0))  # planes: three times as fast as pixels of three
        iterations = COARSE_ITERATIONS if max(size) <= COARSE else ITERATIONS
        colours = _iterate(i, a, _repeat(colours, a.shape), smoothness, iterations)
    return np.moveaxis(colours, 1, 3)


def _iterate(image: Floats, alpha: Floats, colours: Floats, smoothness: Floats, iterations: int) -> Floats:
    """Iterations towards F and B, 2 x 3 x h x w, of each pixel's two equations in them, for given neighbours.

    Jacobi's, with Chebyshev's acceleration (Golub and Varga, "Chebyshev Semi-Iterative Methods", 1961): a step goes
    further than the equations ask, away from where the last one began. For both colours at once: Python's lock changes
    hands at each operation, and threads that work on other photos wait for it.
    """
    own = np.stack((alpha, 1 - alpha))
    ties = [(smoothness + EDGE_WEIGHT * np.abs(alpha - near))[:, np.newaxis] for near in _neighbours(_framed(alpha))]
    diagonal = own * own + sum(tie[:, 0] for tie in ties)
    across = own[0] * own[1]
    determinant = diagonal[0] * diagonal[1] - across * across
    inverse, across = (diagonal[::-1] / determinant)[:, np.newaxis], across / determinant
    known = own[:, np.newaxis] * image
    around = _framed(colours)
    now, near = around[..., 1:-1, 1:-1], _neighbours(around)
    before, term, factor = colours, np.empty_like(known), np.float32(2)
    for iteration in range(iterations):
        step = ties[0] * near[0]
        step += known
        for tie, neighbour in zip(ties[1:], near[1:], strict=True):
            step += np.multiply(tie, neighbour, out=term)
        np.multiply(across, step[::-1], out=term)
        step *= inverse
        step -= term
        if iteration:
            factor = np.float32(1 / (1 - (RADIUS / 2) ** 2 * factor))
            step -= before
            step *= factor
            step += before
        before = now.copy()
        np.clip(step, 0, 1, out=now)
        _set_frame(around)
    return now


def _smoothness(image: Floats, alpha: Floats) -> Floats:
    """How firmly neighbours are held together in F and in B, 2 x 1 x 1: the inverse of how much known ones differ."""
    down, across = (((first - second) ** 2).mean(2) for first, second in _pairs(image))
    found = []
    for known in (alpha >= KNOWN, alpha <= 1 - KNOWN):
        both = [first & second for first, second in _pairs(known)]
        differences = np.concatenate((down[both[0]], across[both[1]]))
        differing = max(float(differences.mean()), 1e-12) if differences.size else np.inf
        found.append(np.clip(NOISE / differing, *SMOOTHNESS))
    return np.array(found, np.float32).reshape(2, 1, 1)


def _pairs(values: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Of pixels h x w x ...: each with the one above it, and with the one to its left."""
    return [(values[1:], values[:-1]), (values[:, 1:], values[:, :-1])]


def _framed(values: Floats) -> Floats:
    """... x h x w with its border repeated around it."""
    around = np.empty((*values.shape[:-2], values.shape[-2] + 2, values.shape[-1] + 2), np.float32)
    around[..., 1:-1, 1:-1] = values
    _set_frame(around)
    return around


def _set_frame(around: Floats) -> None:
    """Repeat the border of what is framed once more; the corners are nobody's neighbours."""
    around[..., 0, :], around[..., -1, :] = around[..., 1, :], around[..., -2, :]
    around[..., 0], around[..., -1] = around[..., 1], around[..., -2]


def _neighbours(around: Floats) -> list[Floats]:
    """The four neighbours of each pixel of what is framed; at the border, the pixel itself."""
    return [around[..., :-2, 1:-1], around[..., 2:, 1:-1], around[..., 1:-1, :-2], around[..., 1:-1, 2:]]


def _repeat(values: Floats, shape: tuple[int, ...]) -> Floats:
    """... x h x w at the size `shape`, each pixel repeated."""
    y, x = (np.arange(new) * old // new for new, old in zip(shape, values.shape[-2:], strict=True))
    repeated: Floats = values[..., y, :][..., x]
    return repeated


# --- alpha ---------------------------------------------------------------------------------------------


def refine(photo: Pixels, matte: Pixels) -> Pixels:
    """A better alpha, H x W, from a photo H x W x 3 and a network's matte H x W, at the photo's own resolution.

    Closed-form matting (Levin et al., PAMI 2008) in a band around what the matte is unsure of, first on very small
    copies and then on a small one. The very small ones settle what the matte leaves wide open: there the photo decides,
    if it comes to a clearer answer than the matte has. On the small one it is about edges, and the matte counts as much
    as it is sure, so that a good one stays good. The rest becomes 0 or 255. The middle of a thin part or gap, which
    lies in the band from edge to edge, stays what it is. Where doubt is wide, the network doubts a part of the subject
    and not an edge: there alpha may rise, but not fall. A matte without doubt, or without enough that is surely subject
    or surely background, is returned as it is.
    """
    if not ((matte > 255 * UNSURE) & (matte < 255 * (1 - UNSURE))).any():
        return matte
    small = _small_size(matte, EDGE_SIDE)
    image, coarse = _unit(_shrink(photo, small)), _unit(_shrink(matte, small))
    coarse = _settled(image, coarse)
    band = _band(coarse)
    if not _knows_enough(coarse, band):
        return matte
    word = np.clip((coarse - LEVEL) / (1 - 2 * LEVEL), 0, 1)
    alpha = _keep_wide(_solve_band(image, coarse, band, word, TRUST * (2 * coarse - 1) ** 2), coarse)
    sure = _resize(alpha, matte.shape[::-1], cv2.INTER_LINEAR) > 0.5
    return _carry(photo, np.where(sure, np.uint8(255), np.uint8(0)), image, alpha, band)


def _settled(image: Floats, matte: Floats) -> Floats:
    """A matte h x w in which what is wide open is decided as the image, h x w x 3, suggests at the WIDE_SIDES."""
    before = change = np.zeros((1, 1), np.float32)
    for side in (*WIDE_SIDES, max(matte.shape)):
        size = _small_size(matte, side)
        colours, coarse = (_shrink(values, size) for values in (image, matte))
        # Fine structures of the matte are no open question, but what a coarser copy can't see.
        detail = cv2.blur(np.abs(coarse - _resize(before, size, cv2.INTER_LINEAR)), (2 * DETAIL_AROUND + 1,) * 2)
        heard = np.clip(1 - detail / DETAIL, 0, 1)
        settled = np.clip(coarse + heard * _resize(change, size, cv2.INTER_LINEAR), 0, 1)
        if side in WIDE_SIDES and _knows_enough(settled, band := _band(settled)):
            alpha = _solve_band(colours, settled, band, settled, np.zeros_like(settled))
            before, change = coarse, _keep_wide(_more_decided(alpha, settled), settled) - coarse
        else:
            before, change = coarse, settled - coarse
    settled = np.asarray(matte + change, np.float32)
    both, either = (matte > 0.5) & (settled > 0.5), (matte > 0.5) | (settled > 0.5)
    # That would be another subject, of which the photo's colours alone can't tell: no edge is worth that.
    return settled if np.count_nonzero(both) >= SAME * np.count_nonzero(either) else matte


def _knows_enough(matte: Floats, band: Mask) -> bool:
    """Whether enough of the photo is outside the band, of the subject and of the background."""
    sides = np.count_nonzero((matte > 0.5) & ~band), np.count_nonzero((matte <= 0.5) & ~band)
    return bool(band.any() and min(sides) >= LEAST_KNOWN * matte.size)


def _solve_band(image: Floats, matte: Floats, band: Mask, word: Floats, trust: Floats) -> Floats:
    """Alpha, h x w: solved in the band, where `word` is what is trusted, and the matte as 0 or 1 elsewhere."""
    unknown = band & ~_thin(matte, THIN) & ~_thin(1 - matte, GAP)
    return _solve_alpha(image, np.where(unknown, word, (matte > 0.5).astype(np.float32)), unknown, trust)


def _more_decided(alpha: Floats, matte: Floats) -> Floats:
    """Between a matte and a new alpha, both h x w, by which of them is closer to 0 or 1 around each pixel."""
    side = (2 * DECIDED_AROUND + 1,) * 2
    new, old = (cv2.blur(np.abs(2 * values - 1), side) ** DECIDED_POWER for values in (alpha, matte))
    share = CHANGE_WEIGHT * new / np.maximum(CHANGE_WEIGHT * new + old, np.float32(1e-6))
    return np.asarray(matte + share * (alpha - matte), np.float32)


def touch_up(photo: Pixels, alpha: Pixels, keep: Mask, remove: Mask) -> Pixels:
    """Alpha H x W after brush strokes: `keep` (H x W) brings the subject back, `remove` takes it away.

    The inner third of a stroke's width is taken at its word. The rest is solved for as in `refine`, from there and from
    the alpha around the stroke, so that it ends at the edges of the photo rather than at the brush's.
    Nothing changes outside the strokes; alpha only rises under `keep` and only falls under `remove`, which wins.
    """
    keep = keep & ~remove
    rows, columns = np.flatnonzero((keep | remove).any(1)), np.flatnonzero((keep | remove).any(0))
    if not rows.size:
        return alpha
    pad = 8 * max(1, max(alpha.shape) // ALPHA_SIDE)  # some pixels of the surroundings, at the size of the solution
    box = tuple(slice(max(0, int(at[0]) - pad), int(at[-1]) + 1 + pad) for at in (rows, columns))
    photo, before = np.ascontiguousarray(photo[box]), np.ascontiguousarray(alpha[box])
    keep, remove = keep[box], remove[box]
    size = _small_size(before, ALPHA_SIDE)
    image, start = _unit(_shrink(photo, size)), _unit(_shrink(before, size))
    kept, removed = (_shrink(stroke.astype(np.float32), size) > 0 for stroke in (keep, remove))
    sure, surely_not = _core(kept), _core(removed)
    start[sure], start[surely_not] = 1, 0
    band = (kept | removed) & ~sure & ~surely_not
    word = _bytes(_resize(start, before.shape[::-1], cv2.INTER_NEAREST))
    solved = _carry(photo, word, image, _solve_alpha(image, start, band), band)
    out = alpha.copy()
    out[box][keep] = np.maximum(before, solved)[keep]
    out[box][remove] = np.minimum(before, solved)[remove]
    return out


def _core(stroke: Mask) -> Mask:
    """The inner third of a stroke's width."""
    depth = cv2.distanceTransform(np.pad(stroke, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    widest = int(depth.max())
    core: Mask = stroke & (depth >= 2 / 3 * cv2.dilate(depth, np.ones((2 * widest + 1,) * 2, np.uint8)))
    return core


def _band(matte: Floats) -> Mask:
    """The pixels to solve for: the unsure ones, a margin, and more of it around wider parts."""
    unsure = ((matte > UNSURE) & (matte < 1 - UNSURE)).astype(np.uint8)
    unit = max(matte.shape) / ALPHA_SIDE
    band: NDArray[Any] = cv2.dilate(unsure, _disc(BAND_MARGIN * unit))
    for core in CORES:
        cores = cv2.erode(unsure, _disc(core * unit), borderType=cv2.BORDER_CONSTANT, borderValue=1)
        band = np.maximum(band, cv2.dilate(cores, _disc((core * (1 + GROWTH) + BAND_MARGIN) * unit)))
    return band > 0


def _thin(matte: Floats, least: float) -> Mask:
    """The middle of each part: where both the matte, at `least` this, and the way to the part's edge are largest."""
    around = _disc(THIN_REACH * max(matte.shape) / ALPHA_SIDE)
    depth = cv2.distanceTransform((matte > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    peaks = [value >= 0.99 * cv2.dilate(value, around) for value in (matte, depth)]
    thin: Mask = (matte >= least) & peaks[0] & peaks[1]
    return thin


def _keep_wide(alpha: Floats, matte: Floats) -> Floats:
    """The matte's value where alpha fell below it and doubt is wide; in between where it is less so."""
    side = 2 * max(1, round(WIDE * max(matte.shape) / ALPHA_SIDE)) + 1
    doubt = cv2.blur(4 * matte * (1 - matte), (side, side))
    keep = np.clip((doubt - WIDE_DOUBT[0]) / (WIDE_DOUBT[1] - WIDE_DOUBT[0]), 0, 1)
    return np.asarray(alpha + keep * np.maximum(matte - alpha, 0), np.float32)


def _solve_alpha(image: Floats, alpha: Floats, band: Mask, trust: Floats | None = None) -> Floats:
    """Alpha, h x w, whose values outside the band stay; solved at a fraction of the size first, where far is near.

    `trust`, h x w, is how firmly it is held to what it was in the band, next to the matting Laplacian's 1; None is 0.
    """
    height, width = alpha.shape
    solved = alpha
    if trust is None:
        trust = np.zeros_like(alpha)
    for level, steps in enumerate(STEPS):
        fraction = 2 ** (len(STEPS) - 1 - level)
        size = max(1, width // fraction), max(1, height // fraction)
        inside = _shrink(band.astype(np.float32), size) > 0.99
        word = _shrink(alpha, size)
        start = np.where(inside, _resize(solved, size, cv2.INTER_LINEAR), word) if level else word
        solved = _descend(_shrink(image, size), start, inside, (word, _shrink(trust, size)), steps)
    return np.clip(np.where(band, (solved - SNAP) / (1 - 2 * SNAP), alpha), 0, 1)


def _descend(image: Floats, alpha: Floats, band: Mask, held: tuple[Floats, Floats], steps: int) -> Floats:
    """Conjugate gradients, with the diagonal as preconditioner, on the band's matting Laplacian, from `alpha`.

    `held` is to what each pixel is also drawn, and how firmly, h x w each.
    `scipy.sparse.linalg.cg` takes 1.1 times as long for all of `refine`, over five photos of 0.5 megapixels.
    """
    if not band.any():
        return alpha
    laplacian, right = _matting_laplacian(image, alpha, band)
    word, trust = (values[band] for values in held)
    diagonal = laplacian.diagonal() + trust + np.float32(1e-4)
    x = alpha[band]
    rest = right + trust * (word - x) - laplacian @ x
    direction = rest / diagonal
    energy = float(rest @ direction)
    for _ in range(steps):
        if energy < TOLERANCE**2 * 1e-3 * x.size:
            break
        image_of = laplacian @ direction + trust * direction
        step = np.float32(energy / float(direction @ image_of))
        x += step * direction
        rest -= step * image_of
        scaled = rest / diagonal
        before, energy = energy, float(rest @ scaled)
        direction = scaled + np.float32(energy / before) * direction
    out = alpha.copy()
    out[band] = np.clip(x, 0, 1)
    return out


def _matting_laplacian(image: Floats, alpha: Floats, band: Mask) -> tuple[Any, Floats]:
    """L of the band's N pixels, N x N, and the right side that the known alpha around them makes.

    A window of 3 x 3 pixels couples its pixels i and j by (1 + (I_i - mean) (cov + noise / 9)^-1 (I_j - mean)) / 9.
    """
    from scipy.sparse import csr_array  # a third of this module's import, and only refinement needs it

    image, alpha = (np.pad(v, [(2, 2)] * 2 + [(0, 0)] * (v.ndim - 2), mode="edge") for v in (image, alpha))
    band = np.pad(band, 2)
    width = band.shape[1]
    window, reach = (np.array([y * width + x for y, x in places], np.int32) for places in (WINDOW, REACH))
    centres = cv2.dilate(band.astype(np.uint8), np.ones((3, 3), np.uint8))
    centres = np.pad(centres[3:-3, 3:-3], 3)  # windows lie within the image
    rows = np.zeros((len(REACH), band.size), np.float32)  # L's row of each pixel, as its surroundings
    pixels = image.reshape(-1, 3)
    every = np.flatnonzero(centres).astype(np.int32)
    for at in np.split(every, range(CHUNK, every.size, CHUNK)):
        # In float64: on a plain background the inverse is so large that what cancels would be lost in float32.
        colours = np.take(pixels, at[:, np.newaxis] + window, axis=0).astype(np.float64)
        colours -= colours.mean(1, keepdims=True)
        turned = colours.transpose(0, 2, 1)
        spread = turned @ colours / 9 + np.eye(3) * (COLOUR_NOISE / 9)
        coupling = ((colours @ np.linalg.inv(spread) @ turned + 1) / 9).astype(np.float32)
        for i in range(9):
            rows[ITSELF, at + window[i]] += 1
            for j in range(9):
                rows[FROM_TO[i][j], at + window[i]] -= coupling[:, i, j]
    own = np.flatnonzero(band).astype(np.int32)
    number = np.full(band.size, -1, np.int32)
    number[own] = np.arange(own.size, dtype=np.int32)
    values, near = rows[:, own].T, own[:, np.newaxis] + reach
    unknown = number[near] >= 0
    right = -np.where(unknown, 0, values * alpha.reshape(-1)[near]).sum(1, dtype=np.float32)
    ends = np.concatenate(([0], np.cumsum(unknown.sum(1)))).astype(np.int32)
    return csr_array((values[unknown], number[near][unknown], ends), shape=(own.size, own.size)), right


def _carry(photo: Pixels, known: Pixels, image: Floats, alpha: Floats, band: Mask) -> Pixels:
    """Alpha at the photo's size: in the band what was solved, h x w, on `image`, h x w x 3; elsewhere `known`, H x W.

    There it is the same linear function of the photo's colours as it is of the small image's around the place, as in
    the fast guided filter (He and Sun, 2015).
    """
    height, width = known.shape
    rows, columns = alpha.shape
    out = known.copy()
    if (rows, columns) == (height, width):
        out[band] = _bytes(alpha[band])
        return out
    model = _local_model(image, alpha)
    pixels, flat = photo.reshape(-1, 3), out.reshape(-1)

    def fill(at: NDArray[Any]) -> None:
        y, x = (
            ((place + 0.5) * np.float32(less / more) - np.float32(0.5))[:, np.newaxis].astype(np.float32)
            for place, less, more in zip(np.divmod(at, width), (rows, columns), (height, width), strict=True)
        )
        here = cv2.remap(model, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
        flat[at] = _bytes((here[:, :3] * _unit(np.take(pixels, at, axis=0))).sum(1) + here[:, 3])

    _in_chunks(fill, _resize(band.astype(np.uint8), (width, height), cv2.INTER_NEAREST))
    return out


def _local_model(image: Floats, alpha: Floats) -> Floats:
    """Slope and offset, h x w x 4, of alpha as a linear function of colour in 3 x 3 windows, averaged there."""

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, (3, 3)), np.float32)

    colour, level = mean(image), mean(alpha)
    both = mean(image * alpha[..., np.newaxis]) - colour * level[..., np.newaxis]
    products = np.stack([mean(image * image[..., i : i + 1]) - colour * colour[..., i : i + 1] for i in range(3)], -1)
    slope = np.linalg.solve(products.astype(np.float64) + CARRY_NOISE * np.eye(3), both[..., np.newaxis])[..., 0]
    offset = level - (slope * colour).sum(-1)
    return mean(np.dstack([slope, offset]).astype(np.float32))


# --- both ----------------------------------------------------------------------------------------------


def _small_size(pixels: NDArray[Any], side: int) -> tuple[int, int]:
    """Width and height at which the longer side is at most `side`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shrink(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Averages at (width, height); halved first as often as that goes, which is four times as fast."""
    while values.shape[1] >= 4 * size[0] and values.shape[0] >= 4 * size[1]:
        values = _resize(values, (values.shape[1] // 2, values.shape[0] // 2), cv2.INTER_AREA)
    return _resize(values, size, cv2.INTER_AREA)


def _resize(values: NDArray[Any], size: tuple[int, ...], how: int) -> NDArray[Any]:
    """To (width, height), at least two dimensions whatever OpenCV drops."""
    resized: NDArray[Any] = cv2.resize(values, size, interpolation=how)
    return resized.reshape(*size[::-1], *values.shape[2:])


def _disc(radius: float) -> Pixels:
    r = max(1, round(radius))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1)), np.uint8)


def _unit(pixels: NDArray[Any]) -> Floats:
    """0..255 as 0..1."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def _bytes(values: Floats) -> Pixels:
    """0..1 as 0..255, to the nearest."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def _in_chunks(work: Callable[[NDArray[Any]], None], mask: NDArray[Any]) -> None:
    """Have threads work on the indices of a mask, a chunk at a time; NumPy and OpenCV let go of the lock meanwhile."""
    flat = mask.reshape(-1)

    def work_on(start: int) -> None:
        indices = np.flatnonzero(flat[start : start + PIECE]) + start
        for first in range(0, indices.size, CHUNK):
            work(indices[first : first + CHUNK])

    with ThreadPoolExecutor() as pool:
        list(pool.map(work_on, range(0, flat.size, PIECE)))
