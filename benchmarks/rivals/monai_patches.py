"""Patches by MONAI, all cases in memory; run by benchmarks.loader in its own Python."""

import itertools
import json
import resource
import sys
import time
from pathlib import Path

from monai.data import CacheDataset, DataLoader, ThreadDataLoader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    FgBgToIndicesd,
    LoadImaged,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SelectItemsd,
    SpatialPadd,
)

BOTH = ("image", "label")
LOADERS = {"processes": DataLoader, "threads": ThreadDataLoader}


def main(config: dict) -> dict:
    size = [config["patch_size"]] * 3
    folder = Path(config["dataset_dir"])
    cases = [
        {"image": str(folder / case["image"]), "label": str(folder / case["label"])}
        for case in json.loads((folder / "dataset.json").read_text())["training"]
    ]
    transforms = Compose(
        [
            LoadImaged(BOTH),
            EnsureChannelFirstd(BOTH),
            NormalizeIntensityd("image"),
            SpatialPadd(BOTH, size),
            # What does not change is in the cache: the voxels to draw from, too.
            FgBgToIndicesd("label", fg_postfix="_fg", bg_postfix="_bg"),
            RandCropByPosNegLabeld(
                BOTH,
                "label",
                size,
                pos=1,
                neg=2,
                num_samples=config["batch_size"],
                fg_indices_key="label_fg",
                bg_indices_key="label_bg",
            ),
            SelectItemsd(BOTH),
            RandFlipd(BOTH, prob=0.5, spatial_axis=1),
            RandFlipd(BOTH, prob=0.5, spatial_axis=2),
            RandScaleIntensityd("image", factors=0.15, prob=1),
            RandShiftIntensityd("image", offsets=0.15, prob=1),
            RandGaussianNoised("image", std=0.1, prob=1),
        ]
    )
    dataset = CacheDataset(cases, transforms, progress=False)
    batches = LOADERS[config["loader"]](
        dataset, batch_size=1, shuffle=True, num_workers=2, persistent_workers=True
    )

    endless = itertools.chain.from_iterable(itertools.repeat(batches))

    def draw(patches: int) -> int:
        drawn = 0
        while drawn < patches:
            drawn += next(endless)["image"].shape[0]
        return drawn

    draw(config["warm_up"])
    start = time.perf_counter()
    drawn = draw(config["patches"])
    seconds = time.perf_counter() - start
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rate": drawn / seconds, "peak_mib": kib / 1024}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
