"""Makes `experiments/sea_data/sea.npz` from the unpacked wheel iris-sample-data (UK OGL).

    python -m scripts.read_sea FOLDER

needs h5netcdf. Every second longitude, hundredths of a degree Celsius as int16; land is -30,000.
"""

import argparse
from pathlib import Path

import numpy as np

LAND = -30_000


def main() -> None:
    """Parses the command line and writes the file."""
    import h5netcdf

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the wheel, unpacked")
    folder = parser.parse_args().folder / "iris_sample_data" / "sample_data"
    with h5netcdf.File(folder / "ostia_monthly.nc") as file:
        kelvin = file["surface_temperature"][:, :, ::2]
        latitude, longitude = file["latitude"][:], file["longitude"][::2]
    celsius = np.where(kelvin > 1000, LAND, ((kelvin - 273.15) * 100).round()).astype(np.int16)
    path = Path("experiments/sea_data/sea.npz")
    np.savez_compressed(path, celsius=celsius, latitude=latitude, longitude=longitude)


if __name__ == "__main__":
    main()
