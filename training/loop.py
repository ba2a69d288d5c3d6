"""The training loop. All of it is here: data, model, optimiser, steps, evaluation, checkpoints."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.config import Config
from training.data import Dataset, Images
from training.errors import DivergedError, RunError
from training.model import VAE
from training.objective import negative_elbo, reparameterize
from training.run import BEST, LAST, STATE, Metrics, Run, check_tensors, read_tensors, write_tensors

BETA = 1.0  # the weight of the KL term: the ELBO as it is
GATHERED_BATCHES = 64
EVALUATION_BATCH = 1000
EVALUATION_SEED = 2026  # the same noise every time, so that epochs differ by the model alone
PRINTED_EPOCHS = 20  # lines that a long run prints, about


@dataclass(slots=True)
class State:
    """What changes while training; all of it goes into state.safetensors."""

    model: VAE
    optimizer: torch.optim.Adam
    order: torch.Generator  # of the images
    noise: torch.Generator  # of the latents, on the device
    epoch: int = 0
    rows: list[Metrics] = field(default_factory=list)  # of metrics.jsonl


def train(config: Config, dataset: Dataset, run: Run, device: torch.device) -> list[Metrics]:
    """Train to `config.epochs`, from the start or from the run's last finished epoch, saving after each.

    Returns:
        The rows of metrics.jsonl.

    Raises:
        DivergedError: the loss is not finite. The run keeps the epochs before.
        RunError: the state to resume from does not fit.
    """
    state = _initial_state(config, run, device)
    if config.resume and (run.path / STATE).exists():  # or it was stopped before its first epoch was finished
        _restore(state, run)
    rows = state.rows
    pixels = torch.tensor(dataset.train.pixels, device=device)  # stays there, as it came: uint8 mostly
    every = math.ceil(config.epochs / PRINTED_EPOCHS)
    bar = tqdm(total=config.epochs, initial=state.epoch, unit="epoch", disable=None)
    with SummaryWriter(run.path, purge_step=state.epoch + 1) as board, bar:
        while state.epoch < config.epochs:
            row = _train_epoch(state, config, pixels, dataset.scale)
            row |= evaluate(state.model, dataset.test, dataset.scale)
            _check_finite(row)
            rows.append(row)
            _save(state, run)
            for name, value in row.items():
                board.add_scalar(name, value, state.epoch)
            bar.update()
            bar.set_postfix(train=f"{row['train_loss']:.2f}", test=f"{row['test_loss']:.2f}")
            if state.epoch % every == 0 or state.epoch in (1, config.epochs):
                tqdm.write(_line(row, config.epochs))
    return rows


def _train_epoch(state: State, config: Config, pixels: Tensor, scale: float) -> Metrics:
    """One pass over the images, in a new order. The losses are those of the steps as taken, averaged over images."""
    state.model.train()
    started = time.perf_counter()
    sums = torch.zeros(2, device=pixels.device)  # reconstruction and KL; on the device, so that no step waits for it
    for x in _shuffled(pixels, config.batch_size, scale, state.order):
        mu, log_var = state.model.encode(x)
        logits = state.model.decoder(reparameterize(mu, log_var, state.noise))
        reconstruction, kl = negative_elbo(x, logits, mu, log_var)
        loss = reconstruction + BETA * kl
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        sums += torch.stack((reconstruction, kl)).detach() * len(x)
    reconstruction_mean, kl_mean = (sums / len(pixels)).tolist()
    state.epoch += 1
    return {
        "epoch": state.epoch,
        "train_loss": reconstruction_mean + BETA * kl_mean,
        "reconstruction": reconstruction_mean,
        "kl": kl_mean,
        "beta": BETA,
        "seconds": time.perf_counter() - started,
    }


def _check_finite(row: Metrics) -> None:
    """Before anything is saved: NaN weights must not replace good ones, nor NaN be the lowest test loss for ever."""
    if bad := [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]:
        raise DivergedError(
            f"epoch {row['epoch']:g} is not finite: {', '.join(bad)}; what was saved before it stays; try a lower --lr"
        )


def _shuffled(pixels: Tensor, batch_size: int, scale: float, order: torch.Generator) -> Iterator[Tensor]:
    """All images once, in a random order, as float32 [batch, C, H, W] in [0, 1].

    Gathered many batches at a time: slices of what was gathered lie together in memory, which saves 3 % of an epoch.
    """
    for block in torch.randperm(len(pixels), generator=order).split(GATHERED_BATCHES * batch_size):  # type: ignore[no-untyped-call]
        for batch in pixels[block.to(pixels.device)].split(batch_size):  # type: ignore[no-untyped-call]
            yield batch.to(torch.float32).div_(scale)


@torch.inference_mode()
def evaluate(model: VAE, images: Images, scale: float) -> Metrics:
    """The negative ELBO of `images` and its two terms, with one draw of the latent each, in nats per image."""
    device = next(model.parameters()).device
    noise = torch.Generator(device).manual_seed(EVALUATION_SEED)
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for x in batches(images, scale, device):
        mu, log_var = model.encode(x)
        logits = model.decoder(reparameterize(mu, log_var, noise))
        sums += torch.stack(negative_elbo(x, logits, mu, log_var)) * len(x)
    reconstruction, kl = (sums / len(images)).tolist()
    return {"test_loss": reconstruction + kl, "test_reconstruction": reconstruction, "test_kl": kl}


def batches(images: Images, scale: float, device: torch.device) -> Iterator[Tensor]:
    """The images in order, as float32 [batch, C, H, W] in [0, 1]."""
    for start in range(0, len(images), EVALUATION_BATCH):
        pixels = torch.tensor(images.pixels[start : start + EVALUATION_BATCH], device=device)
        yield pixels.to(torch.float32) / scale


def choose_device(requested: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda".

    Raises:
        RunError: "cuda" without a usable GPU.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: PyTorch finds no usable GPU here")
    return torch.device("cuda" if requested != "cpu" and torch.cuda.is_available() else "cpu")


def _initial_state(config: Config, run: Run, device: torch.device) -> State:
    weights, order, noise = streams(config.seed)
    torch.manual_seed(weights)
    model = run.build_model().to(device)
    return State(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=config.lr, fused=True),
        order=torch.Generator().manual_seed(order),
        noise=torch.Generator(device).manual_seed(noise),
    )


def streams(seed: int) -> tuple[int, int, int]:
    """Seeds of the weights, the order of the images and the noise: one for all would draw the same numbers thrice."""
    weights, order, noise = np.random.SeedSequence(seed).generate_state(3, np.uint64).tolist()
    return weights, order, noise


def _save(state: State, run: Run) -> None:
    write_tensors(run.path / STATE, _state_tensors(state), {"rows": state.rows})
    _write_derived(state, run)


def _write_derived(state: State, run: Run) -> None:
    """What follows from the state: the weights of the last epoch, of the best if that is the last, and the metrics."""
    last, best = state.rows[-1], min(state.rows, key=lambda row: row["test_loss"])
    run.save_weights(LAST, state.model, last)
    if best is last:
        run.save_weights(BEST, state.model, last)
    run.write_metrics(state.rows)
    run.describe(best=best, last=last)


def _restore(state: State, run: Run) -> None:
    tensors, header = read_tensors(run.path / STATE)
    for parameter in state.model.parameters():  # Adam makes its moments at the first step; make them now, to fill them
        state.optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    current = _state_tensors(state)
    check_tensors(run.path / STATE, tensors, current)
    state.order.set_state(tensors.pop("generator.order"))
    state.noise.set_state(tensors.pop("generator.noise"))
    with torch.no_grad():
        for name, tensor in tensors.items():
            current[name].copy_(tensor)
    state.rows = header["rows"]
    state.epoch = len(state.rows)
    _write_derived(state, run)  # if it was killed after the state and before the rest


def _state_tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of the state by name; those of model and optimiser are the live ones, not copies."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    return tensors | {"generator.order": state.order.get_state(), "generator.noise": state.noise.get_state()}


def _line(row: Metrics, epochs: int) -> str:
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
        f"  train {row['train_loss']:.2f}  test {row['test_loss']:.2f}"
        f"  (reconstruction {row['reconstruction']:.2f} + KL {row['kl']:.2f} nats)  {row['seconds']:.2f} s"
    )
