"""Makes `experiments/scenes/*.jpg` from the unpacked npm package @pmndrs/assets (CC0).

    python -m scripts.read_scenes FOLDER

needs OpenEXR, Pillow and SciPy.
"""

import argparse
import base64
import tempfile
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image
from scipy.ndimage import binary_dilation, maximum_filter

NAMES = ("city", "dawn", "forest", "night", "park", "sky", "sunrise", "sunset", "venice")


def read(path: Path) -> np.ndarray:
    """The colours of an EXR file that JavaScript carries: `[height, width, 3]`."""
    data = base64.b64decode(path.read_text().split("base64,")[1].split('"')[0])
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        with OpenEXR.File(file.name) as image:
            channels = image.channels()
            if "RGB" in channels:
                return np.asarray(channels["RGB"].pixels, np.float32)
            return np.stack([channels[c].pixels for c in "RGB"], -1, dtype=np.float32)


def toned(colours: np.ndarray) -> np.ndarray:
    """What a screen shows, from 0 to 1; the surroundings of the sun are filled."""
    least, most = colours.min(-1), colours.max(-1)
    bad = binary_dilation((least <= 0.01) & (most > 1) | (least < -0.05))
    x = np.clip(colours, 0, None)
    luminance = x @ np.array([0.2126, 0.7152, 0.0722])
    x = x * (0.18 / np.exp(np.log(luminance + 1e-3)[64:192].mean()))
    x = np.clip(x * (1 + x / 16) / (1 + x), 0, 1) ** (1 / 2.2)
    x[bad] = -1
    while bad.any():
        largest = [maximum_filter(x[..., c], 3, mode=("nearest", "wrap")) for c in range(3)]
        near = np.stack(largest, axis=-1)
        fill = bad & (near[..., 0] >= 0)
        x[fill] = near[fill]
        bad &= ~fill
    return np.asarray(x)


def main() -> None:
    """Parses the command line and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the package's folder, with hdri/ in it")
    folder = Path("experiments/scenes")
    for name in NAMES:
        colours = toned(read(parser.parse_args().folder / "hdri" / f"{name}.exr.js"))
        image = Image.fromarray((colours * 255).round().astype(np.uint8))
        image.save(folder / f"{name}.jpg", quality=93, subsampling=0)


if __name__ == "__main__":
    main()
