"""Parameters, FLOPs and timing of small detectors whose cost is known by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from eyas.evaluation.cost import ModelCost, count_flops, measure, measure_in_turns, table
from eyas.types import Detector, Level, Prediction, Target


class TinyDetector(nn.Module):
    """A strided convolution, a grouped one with BatchNorm, and a linear layer, each with a known count."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(8),
            nn.Flatten(2),
            nn.Linear(16 * 12, 5),
        )
        self.classes = ("a",)
        self.levels: dict[str, Level] = {}
        self.calls: list[tuple[int, bool, bool, int]] = []

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        return {}

    def predict(self, images: Tensor) -> list[Prediction]:
        self.calls.append((len(images), self.network.training, torch.is_grad_enabled(), torch.get_num_threads()))
        self.network(images)
        return [
            {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
            for _ in images
        ]


# Input 32 x 24: both convolutions give 16 x 12 cells. Two operations per multiply-add; bias and BatchNorm not counted.
FLOPS = 2 * (16 * 12 * 8 * 3 * 9) + 2 * (16 * 12 * 8 * 2 * 9) + 2 * (8 * 16 * 12 * 5)
PARAMETERS = (8 * 3 * 9 + 8) + 8 * 2 * 9 + 2 * 8 + (16 * 12 * 5 + 5)


def test_counts_parameters_and_operations_per_image() -> None:
    detector = TinyDetector()
    assert isinstance(detector, Detector)
    for batch_size in (1, 3):
        cost = measure(detector, (32, 24), runs=3, warmup=1, batch_size=batch_size)
        assert cost.parameters == PARAMETERS
        assert cost.gflops == FLOPS / 1e9
        assert (cost.batch_size, cost.image_size, cost.device) == (batch_size, (32, 24), "cpu")


def test_counts_attention_and_shared_parameters_once() -> None:
    class Attention(TinyDetector):
        def __init__(self) -> None:
            super().__init__()
            one = nn.Linear(4, 4, bias=False)
            self.network = nn.Sequential(one, one)

        def predict(self, images: Tensor) -> list[Prediction]:
            tokens = self.network(torch.ones(1, 2, 10, 4))
            nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return []

    detector = Attention()
    cost = measure(detector, (8, 8), runs=1, warmup=0)
    assert cost.parameters == 16
    # Two linear layers on 2 heads x 10 tokens; then q k^T and its product with v.
    assert cost.gflops * 1e9 == pytest.approx(2 * 2 * (20 * 16) + 2 * 2 * (2 * 10 * 10 * 4))


def test_counts_the_fused_attention_of_pytorch_layers() -> None:
    detector = TinyDetector()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    def predict(images: Tensor) -> list[Prediction]:
        layer(torch.ones(2, 10, 8))
        return []

    detector.predict = predict
    assert torch.backends.mha.get_fastpath_enabled()
    # 20 tokens of width 8: q, k, v and output projections, two feed-forward layers of 16, and two products of 10 x 10.
    with torch.no_grad():
        assert count_flops(detector, torch.zeros(1, 3, 8, 8)) == 2 * 20 * (4 * 8 * 8 + 2 * 8 * 16 + 2 * 10 * 8)
    assert torch.backends.mha.get_fastpath_enabled()


def test_times_the_runs_alone_in_evaluation_without_gradients() -> None:
    detector = TinyDetector()
    cost = measure(detector, (32, 24), runs=5, warmup=2, batch_size=2, threads=1)
    # One prediction of a single image counts the operations.
    assert detector.calls == [(1, False, False, 1)] + 7 * [(2, False, False, 1)]
    assert 0 < cost.latency_p10_ms <= cost.latency_ms <= cost.latency_p90_ms
    assert cost.peak_memory_mb is None
    assert cost.threads == 1


def test_several_detectors_take_turns() -> None:
    """A disturbance then meets all of them, and not whichever was measured at that moment."""
    order: list[str] = []
    detectors = {name: (TinyDetector(), (32, 24)) for name in ("teacher", "student")}
    for name, (detector, _) in detectors.items():
        monitored = detector.predict
        detector.predict = lambda images, name=name, predict=monitored: (order.append(name), predict(images))[1]
    costs = measure_in_turns(detectors, runs=3, warmup=0)
    assert list(costs) == ["teacher", "student"]
    assert order[-6:] == 3 * ["teacher", "student"]
    assert costs["teacher"].gflops == costs["student"].gflops > 0


def test_percentiles_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([t for run in range(11) for t in (10.0 * run, 10.0 * run + run / 1000)])
    monkeypatch.setattr("eyas.evaluation.cost.time.perf_counter", lambda: next(clock))
    cost = measure(TinyDetector(), (32, 24), runs=11, warmup=0)
    assert [cost.latency_p10_ms, cost.latency_ms, cost.latency_p90_ms] == pytest.approx([1, 5, 9])


def test_leaves_everything_as_it_was() -> None:
    detector = TinyDetector()
    detector.network.train()
    detector.network[2].eval()
    modes = [module.training for module in detector.network.modules()]
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    measure(detector, (32, 24), runs=1, warmup=0, threads=threads + 1)
    assert [module.training for module in detector.network.modules()] == modes
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)

    def broken(images: Tensor) -> list[Prediction]:
        raise RuntimeError("broken")

    detector.predict = broken
    with pytest.raises(RuntimeError, match="broken"):
        measure(detector, (32, 24), runs=1, warmup=0, threads=threads + 1)
    assert [module.training for module in detector.network.modules()] == modes
    assert torch.get_num_threads() == threads


def test_a_real_detector_is_counted_to_the_last_convolution() -> None:
    from torchvision.models import resnet18

    network = resnet18(weights=None)

    class Wrapped(TinyDetector):
        def predict(self, images: Tensor) -> list[Prediction]:
            network.eval()(images)
            return []

    # torchvision states 1.814 GFLOPs (multiply-adds) for ResNet-18 at 224 x 224.
    with torch.no_grad():
        assert count_flops(Wrapped(), torch.zeros(1, 3, 224, 224)) / 2e9 == pytest.approx(1.814, abs=5e-4)


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"batch_size": 0}, {"threads": 0}])
def test_wrong_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        measure(TinyDetector(), (32, 24), **wrong)


def test_table_and_headline() -> None:
    cost = ModelCost(14_100_000, 23.4, 31.21, 30.0, 35.56, None, 1, (32, 24), "cpu", 2)
    lines = table({"student": cost, "t": ModelCost(1, 0.0, 1.0, 1.0, 1.0, 512.4, 1, (32, 24), "cuda", 2)}).splitlines()
    assert lines[1].split() == ["student", "14.10", "23.40", "31.2", "30.0-35.6", "-"]
    assert lines[2].split()[-1] == "512"
    assert len({len(line) for line in lines}) == 1
    assert cost.headline() == "14.10 M params  23.40 GFLOPs  31.2 ms on cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    detector = TinyDetector()
    cost = measure(detector, (32, 24), device="cuda", runs=3, warmup=1)
    assert cost.gflops == FLOPS / 1e9
    # The weights alone are more than nothing.
    assert cost.peak_memory_mb is not None and cost.peak_memory_mb > PARAMETERS * 4 / 2**20
    assert next(detector.network.parameters()).device.type == "cpu"
