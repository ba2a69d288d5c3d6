"""On a GPU: the captured step is the eager one. Skipped, saying so, where there is none."""

import dataclasses
from pathlib import Path

import pytest
import torch

from training import data
from training.batches import shuffled
from training.config import Config
from training.initial import initial_state
from training.loop import objective_of, plan_of, train
from training.processes import ALONE
from training.run import create_run
from training.step import EAGER_STEPS, CapturedStep, Step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CONFIG = Config(epochs=3, latent_dim=4, hidden_dims=(16, 16), batch_size=100, warmup_epochs=2.0, lr_schedule="cosine")


@pytest.mark.parametrize(
    "changes",
    [{}, {"binarization": "dynamic"}, {"objective": "dreg", "importance_samples": 4}, {"capacity": 3.0}],
    ids=["elbo", "dynamic", "dreg", "capacity"],
)
def test_a_captured_step_does_what_an_eager_one_does(tmp_path: Path, changes: dict[str, object]) -> None:
    device = torch.device("cuda")
    config = dataclasses.replace(CONFIG, run=tmp_path / "run", **changes)  # type: ignore[arg-type]
    dataset = data.load(config, tmp_path)
    run, plan = create_run(config, dataset, "cuda"), plan_of(config, dataset)
    pixels = torch.tensor(dataset.train.pixels, device=device)
    states = [initial_state(config, run, dataset, device) for _ in range(2)]
    eager, replayed = (Step(state, objective_of(config), dataset, "float32", ALONE) for state in states)
    captured = CapturedStep(replayed, config.batch_size)
    order = torch.arange(len(pixels))
    for number, batch in enumerate(shuffled(dataset.train, pixels, order, config.batch_size)):
        eager(batch, plan.at(number))
        captured(batch, plan.at(number))
    assert number > EAGER_STEPS + 5
    torch.testing.assert_close(states[0].sums, states[1].sums, rtol=1e-5, atol=1e-3)
    for (name, one), other in zip(states[0].model.named_parameters(), states[1].model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5), name


def test_a_run_on_the_gpu_resumes(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, run=tmp_path / "run", device="cuda", lr_schedule="constant", epochs=2)
    dataset = data.load(config, tmp_path)
    run = create_run(config, dataset, "cuda")
    train(config, dataset, run, torch.device("cuda"))
    rows = train(dataclasses.replace(config, epochs=4, resume=True), dataset, run, torch.device("cuda"))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
