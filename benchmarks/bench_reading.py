"""How fast random patches come out of a large section: an OME-Zarr of 20,000 x 20,000 px read by two threads.

Run: ``python benchmarks/bench_reading.py [--side 20000] [--threads 2] [--shards]``. Prints what it ran and where.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import zarr

from brodmann.patches import readers
from brodmann.patches.readers import blocks
from brodmann.patches.source import Section


def write(path: Path, side: int, *, levels: int, shards: bool) -> None:
    """Write a section-like image (blobs on a gradient, camera noise), 1 um per px, chunks of 512, zstd."""
    rng = np.random.default_rng(0)
    tile = rng.normal(0, 6, (1024, 1024))
    y, x = np.mgrid[:1024, :1024]
    tile += 40 * np.sin(x / 37) * np.sin(y / 53)
    scales = [{"type": "space", "name": name, "unit": "micrometer"} for name in "yx"]
    datasets = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [2.0**i, 2.0**i]}]}
        for i in range(levels)
    ]
    ome = {"version": "0.5", "multiscales": [{"axes": scales, "datasets": datasets}]}
    group = zarr.open_group(str(path), mode="w", zarr_format=3, attributes={"ome": ome})
    for level in range(levels):
        size = side // 2**level
        more = {"shards": (4096, 4096)} if shards else {}
        array = group.create_array(
            str(level), shape=(size, size), dtype="u1", chunks=(512, 512), config={"write_empty_chunks": True}, **more
        )
        step = 4096
        for top in range(0, size, step):
            for left in range(0, size, step):
                high, wide = min(step, size - top), min(step, size - left)
                block = np.tile(tile, (4, 4))[:high, :wide] + 150 + 20 * np.sin((top + left) / 9000)
                array[top : top + high, left : left + wide] = np.clip(block, 0, 255).astype(np.uint8)


def rate(section: Section, *, threads: int, seconds: float, pixel_um: float, angle_deg: float = 0.0) -> tuple[int, int]:
    """Crops per second, and per second of processor time; every place is drawn anew from the whole section."""
    done = [0] * threads
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        while time.perf_counter() < end:
            for x, y in rng.uniform(300, section.width_um - 300, (50, 2)):
                section.crop(x, y, size_px=128, pixel_um=pixel_um, angle_deg=angle_deg)
            done[number] += 50

    start, busy = time.perf_counter(), time.process_time()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = sum(done)
    return round(total / (time.perf_counter() - start)), round(total / (time.process_time() - busy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--shards", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        start = time.perf_counter()
        write(path, asked.side, levels=asked.levels, shards=asked.shards)
        wrote = time.perf_counter() - start
        start = time.perf_counter()
        section = readers.read(path).sections[0]
        opened = time.perf_counter() - start
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rate(section, threads=asked.threads, seconds=1.0, pixel_um=2.0)
        results = {
            f"2x native, level {section.level_for(2.0)}, upright": rate(  # type: ignore[attr-defined]
                section, threads=asked.threads, seconds=asked.seconds, pixel_um=2.0
            ),
            "1.9x native from level 0, upright": rate(
                section, threads=asked.threads, seconds=asked.seconds, pixel_um=1.9
            ),
            "1.9x native from level 0, turned 30 deg": rate(
                section, threads=asked.threads, seconds=asked.seconds, pixel_um=1.9, angle_deg=30.0
            ),
        }
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = {
            "ran": " ".join(sys.argv),
            "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("numpy", "numba", "zarr", "tensorstore")},
            "image": f"{asked.side} px square, {asked.levels} levels, chunks 512" + (", shards 4096" * asked.shards),
            "written_s": round(wrote, 1),
            "opened_s": round(opened, 2),
            "crops_128px_per_s": {name: value[0] for name, value in results.items()},
            "crops_per_processor_second": {name: value[1] for name, value in results.items()},
            "threads": asked.threads,
            "cache_mb": round(blocks.CACHED.nbytes / 1e6),
            "memory_growth_mb": round((after - before) / 1024),
        }
        print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
