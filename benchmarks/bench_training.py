"""Speed of training, embedding and loading on this machine, against its measured bf16 limit.

    python benchmarks/bench_training.py [--mouse FOLDER/sections/mouse_glt1] [--seconds 10]

FLOPs are counted by torch (2 per multiply-add); the limit is the best large matrix product found.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from brodmann import compute, patches, verbs
from brodmann.patches import views
from brodmann.samples import prefetch


def limit(dtype: torch.dtype, device: torch.device) -> float:
    """Best FLOP/s of square products."""
    best = 0.0
    for n in (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * n**3 * rate(lambda a=a, b=b: a @ b, 1.5, device))
    return best


def rate(call, seconds: float, device: torch.device) -> float:
    """Calls per second after two to warm up."""
    for _ in range(2):
        call()
    sync(device)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        call()
        count += 1
        if device.type == "cuda" and count % 20 == 0:
            sync(device)
    sync(device)
    return count / (time.perf_counter() - begun)


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def resident(recipe, batch: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of noise with partners, already where the model is."""
    size, channels = recipe.samples.size_px, recipe.samples.channels
    made = {
        "image": torch.randint(0, 255, (batch, channels, size, size), dtype=torch.uint8),
        "level": torch.tensor([[[5.5], [0.5], [0.3]]]).expand(batch, 3, channels).contiguous(),
        "view": torch.from_numpy(views.draw(recipe.augment, batch, np.random.default_rng(0))),
        "row": torch.arange(batch),
        "index": torch.arange(batch) // 2,
        "coordinates": (torch.arange(batch) // 2)[:, None].double().expand(batch, 3).contiguous() * 100,
        "subject": torch.zeros(batch, dtype=torch.long),
        "section": torch.arange(batch),
    }
    return {key: value.to(device) for key, value in made.items()}


def model_speed(name: str, changes: dict, batch: int, seconds: float, peak: float) -> str:
    """A line of the table: training and embedding, patches/s and share of the limit."""
    device = compute.device()
    recipe = verbs.recipe(name, {**changes, "fit.batch": batch})
    model = patches.model.CytoNet(recipe).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    data = resident(recipe, batch, device)

    def step() -> None:
        model.loss(data).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def describe() -> None:
        with torch.no_grad():
            model.features(data)

    with FlopCounterMode(display=False) as count:
        model.loss(data).total.backward()
    training_flops = count.get_total_flops() / batch
    with FlopCounterMode(display=False) as count:
        describe()
    forward_flops = count.get_total_flops() / batch
    train_rate = batch * rate(step, seconds, device)
    model.eval()
    embed_rate = batch * rate(describe, seconds, device)
    what = (
        f"{name} {recipe.encoder.kind} {getattr(recipe.encoder, 'depth', '')}, {recipe.samples.size_px} px, B {batch}"
    )
    return (
        f"| {what} | {train_rate:,.0f} | "
        f"{train_rate * training_flops / peak:.0%} | {embed_rate:,.0f} | {embed_rate * forward_flops / peak:.0%} |"
    )


def loader_speed(recipe, source, seconds: float) -> tuple[float, float]:
    """Patches/s of the loader alone, and of training fed by it."""
    samples = patches.samples(source, recipe, part="train")
    size = recipe.fit.batch
    batches = prefetch(samples, 0, 10**6, threads=2)
    loading = size * rate(lambda: next(batches), seconds, torch.device("cpu"))
    device = compute.device()
    model = patches.build(recipe, samples).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    batches = prefetch(samples, 0, 10**6, threads=2)

    def step() -> None:
        batch = {key: value.to(device) for key, value in next(batches).items()}
        model.loss(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return loading, size * rate(step, seconds, device)


def write_zarr(folder: Path, side: int) -> None:
    """A textured OME-Zarr section of ``side`` x ``side`` px at 2 um, three levels, with its sidecar."""
    import json

    import zarr

    group = zarr.open_group(str(folder / "section.ome.zarr"), mode="w", zarr_format=3)
    rng = np.random.default_rng(0)
    tile = rng.integers(60, 220, (1024, 1024)).astype(np.uint8)
    datasets = []
    for level in range(5):
        n = side >> level
        array = group.create_array(str(level), shape=(n, n), chunks=(512, 512), dtype="uint8")
        for y in range(0, n, 1024):
            row = np.tile(tile, (1, -(-n // 1024)))[: min(1024, n - y), :n]
            array[y : y + 1024] = row
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [2.0 * 2**level] * 2}]}
        )
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets, "name": "section"}]}
    sidecar = {
        "space": "unregistered",
        "sections": [{"file": "section.ome.zarr", "id": "s1", "subject": "a", "dark_stain": True}],
    }
    (folder / "sections.json").write_text(json.dumps(sidecar))


ZARR = {
    "samples.size_px": 128, "samples.pixel_um": 4.0, "samples.where": "grid", "samples.spacing_mm": 0.4,
    "samples.tissue": 0.0,
    "samples.upright": False, "partners.metric": "space", "partners.scope": "section", "partners.same_section": True,
    "partners.reach_mm": 1.0, "split.by": "section",
}  # fmt: skip


def zarr_recipe():
    """patches-tiny on one large section, with nothing held out."""
    recipe = verbs.recipe("patches-tiny", ZARR)
    return replace(recipe, split=replace(recipe.split, fold=None))


def memory(side: int) -> int:
    """Peak resident bytes of a process that samples and reads 60 batches of a section of this side."""
    with tempfile.TemporaryDirectory() as folder:
        write_zarr(Path(folder), side)
        code = (
            "import sys,resource;sys.path.insert(0,sys.argv[2]);import bench_training as b;"
            "from brodmann import patches;from pathlib import Path;r=b.zarr_recipe();"
            "s=patches.samples(patches.open(r,Path(sys.argv[1])),r,part='train');"
            "[s.batch(k) for k in range(60)];print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024)"
        )
        here = str(Path(__file__).parent)
        found = subprocess.run([sys.executable, "-c", code, folder, here], check=True, capture_output=True, text=True)
        return int(found.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mouse", default=str(Path(os.environ.get("BRODMANN_DATA", "")) / "sections" / "mouse_glt1"))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--no-memory", action="store_true")
    given = parser.parse_args()
    device = compute.device()
    peak, single = limit(torch.bfloat16, device), limit(torch.float32, device)
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{where}, torch {torch.__version__}; limit bf16 {peak / 1e9:,.0f} GFLOP/s, fp32 {single / 1e9:,.0f} GFLOP/s\n"
    )
    print(
        "| recipe | training, patches/s | of bf16 limit | embedding, patches/s | of bf16 limit |\n|---|---|---|---|---|"
    )
    many = 4 if device.type == "cuda" else 1
    print(model_speed("patches-tiny", {}, 64 * many, given.seconds, peak), flush=True)
    print(model_speed("patches-tiny", {"samples.size_px": 128}, 64 * many, given.seconds, peak), flush=True)
    print(model_speed("patches-cytonet", {"samples.size_px": 224}, 16 * many**2, given.seconds, peak), flush=True)
    print(model_speed("patches-cytonet", {}, 8 * many, given.seconds, peak), flush=True)
    print("\n| source | loader alone, patches/s | training fed by it, patches/s | ratio |\n|---|---|---|---|")
    if Path(given.mouse, "anchoring.json").exists():
        recipe = verbs.recipe("patches-mouse")
        alone, fed = loader_speed(recipe, patches.open(recipe, given.mouse), given.seconds)
        print(f"| mouse sections (PNG), 96 px at 24.6 um | {alone:,.0f} | {fed:,.0f} | {alone / fed:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_zarr(Path(folder), given.side)
        recipe = zarr_recipe()
        alone, fed = loader_speed(recipe, patches.open(recipe, Path(folder)), given.seconds)
        print(
            f"| OME-Zarr {given.side:,} px, 128 px at 4 um | {alone:,.0f} | {fed:,.0f} | {alone / fed:.1f} |",
            flush=True,
        )
    if not given.no_memory:
        small, large = memory(10_000), memory(40_000)
        print(
            f"\npeak memory, section of 10,000 px: {small / 1e6:,.0f} MB; "
            f"of 40,000 px: {large / 1e6:,.0f} MB ({large / small - 1:+.1%})"
        )
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB")


if __name__ == "__main__":
    main()
