"""Segments by MONAI's sliding window; run by benchmarks.segment in its own Python."""

import json
import sys
import time

import torch
from monai.inferers import sliding_window_inference
from torch_unet import UNet


def main(config: dict) -> dict:
    network = UNet(config["filters"], 4, config["classes"], 1).eval()
    # As they are used; channels last is faster here.
    network = network.to(memory_format=torch.channels_last_3d)
    half = config["precision"] == "mixed_bfloat16"
    image = torch.randn(1, 1, *config["shape"])

    def probabilities(patches: torch.Tensor) -> torch.Tensor:
        return network(patches).softmax(1)

    def run(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            whole = sliding_window_inference(image, (96, 96, 96), 1, probabilities, overlap=0.25)
            return whole.argmax(1)

    run(torch.randn(1, 1, 96, 96, 96))
    seconds = []
    for _ in range(config["repeats"]):
        start = time.perf_counter()
        run(image)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
