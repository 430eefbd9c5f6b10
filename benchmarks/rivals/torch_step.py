"""Training steps of the paper's network in PyTorch; run by benchmarks.train_step in its own Python.

Takes the configuration as JSON, prints a line when it is ready and then one for each line it reads.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional
from torch_unet import UNet


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and the Dice loss of the structures."""
    probabilities = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    axes = (0, 2, 3, 4)
    both = (probabilities * truth).sum(axes)
    dice = (2 * both + 1e-5) / (probabilities.sum(axes) + truth.sum(axes) + 1e-5)
    return functional.cross_entropy(logits, labels) + 1 - dice.mean()


class Trainer:
    """A network with its optimizer and a batch."""

    def __init__(self, config: dict, memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        network = UNet(config["filters"], config["levels"], config["classes"], 0)
        self.network = network.to(memory_format=memory_format)
        self._rule = torch.optim.Adam(network.parameters(), 1e-3)
        size, output = config["size"], config["output"]
        image = torch.randn(1, 1, size, size, size)
        self._image = image.contiguous(memory_format=memory_format)
        self._labels = torch.randint(config["classes"], (1, output, output, output))
        self._half = config["precision"] == "mixed_bfloat16"

    def step(self) -> float:
        """The seconds of a step."""
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            logits = self.network(self._image)
        self._rule.zero_grad()
        _loss(logits, self._labels).backward()
        self._rule.step()
        return time.perf_counter() - start


def main(config: dict) -> None:
    formats = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
    tried = {}
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for name, memory_format in formats.items():
        trainer = Trainer(config, memory_format)
        trainer.step()
        tried[name] = trainer.step()
        del trainer
    best = min(tried, key=tried.__getitem__)
    trainer = Trainer(config, formats[best])
    trainer.step()
    parameters = sum(p.numel() for p in trainer.network.parameters())
    _tell({"note": ", ".join(f"{n} {s:.2f} s" for n, s in tried.items()), "parameters": parameters})
    for _ in sys.stdin:
        cpu = time.process_time()
        seconds = sum(trainer.step() for _ in range(config["steps"])) / config["steps"]
        cpu = (time.process_time() - cpu) / config["steps"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        _tell({"seconds": seconds, "cpu": cpu, "peak": peak})


def _tell(values: dict) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
