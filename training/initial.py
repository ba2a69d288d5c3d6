"""Where a run starts: weights, optimiser and generators, all from the seed."""

import numpy as np
import torch
from torch import Tensor, nn

from training.batches import ordered
from training.checkpoint import TERMS, State
from training.config import Config, flag
from training.data import Dataset
from training.errors import RunError
from training.model import VAE
from training.networks import glorot
from training.run import BEST, Run, check_tensors, open_run, planned_run, read_tensors

MEAN_CLIP = 1e-3  # of a pixel's mean before its logit: a pixel that is always 0 must not start at minus infinity
LOG_SIGMA = "likelihood.log_sigma"
BATCHES = "likelihood.batches"  # the number of batches over which an analytic variance is averaged


def initial_state(config: Config, run: Run, dataset: Dataset, device: torch.device, *, weights: bool = True) -> State:
    """The state before the first step.

    Args:
        config, run, dataset, device: those of the training.
        weights: whether to set those of --init-from or --init; False if other weights will replace them.
    """
    start, order, noise = derived_seeds(config.seed)
    torch.manual_seed(start)
    model = run.build_model()
    if weights:
        _set_weights(model, config, dataset)
    model.to(device)
    cuda = device.type == "cuda"
    generator = torch.Generator().manual_seed(order)
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=torch.tensor(config.lr, device=device) if cuda else config.lr,  # a captured graph reads it there
        eps=config.adam_epsilon,
        fused=True,
        capturable=cuda,
    )
    return State(
        model=model,
        optimizer=optimizer,
        order=generator,
        noise=torch.Generator(device).manual_seed(noise),
        epoch_order=generator.get_state(),
        sums=torch.zeros(TERMS, dtype=torch.float64, device=device),
    )


def check_start(config: Config, dataset: Dataset) -> None:
    """Raise RunError if --init-from is not a run to start from; called before a run directory is made."""
    if config.init_from is not None:
        _load(planned_run(config, dataset).build_model(), config)


def derived_seeds(seed: int) -> tuple[int, int, int]:
    """Three seeds from one, for generators that must not draw the same numbers: weights, order of the images, noise."""
    first, second, third = np.random.SeedSequence(seed).generate_state(3, np.uint64).tolist()
    return first, second, third


def mean_image(dataset: Dataset) -> Tensor:
    """The mean of the training images, float32 [C, H, W] in [0, 1]."""
    total = sum(x.sum(0, dtype=torch.float64) for x in ordered(dataset.train, dataset, torch.device("cpu")))
    assert isinstance(total, Tensor)  # there is one image at least
    return (total / len(dataset.train)).float()


def _set_weights(model: VAE, config: Config, dataset: Dataset) -> None:
    """Set weights other than PyTorch's defaults, if they are asked for."""
    if config.init_from is not None:
        _load(model, config)
    elif config.init == "glorot":
        glorot(model)
        _set_output_bias(model, dataset)


def _load(model: VAE, config: Config) -> None:
    """Load the best weights of another run. They are a good start for other data; the optimiser's moments are not."""
    assert config.init_from is not None
    run = open_run(config.init_from)
    run.check_finished()
    for name in ("network", "activation", "likelihood"):
        if getattr(run.config, name) != getattr(config, name):
            raise RunError(f"--init-from: {flag(name)}: that run has {getattr(run.config, name)}, this one differs")
    path = run.path / BEST
    tensors, _ = read_tensors(path)
    own = model.state_dict()
    if config.variance == "fixed" and LOG_SIGMA in own:
        tensors[LOG_SIGMA] = own[LOG_SIGMA]  # --sigma is a setting, no weight
    if BATCHES in own:
        tensors.setdefault(BATCHES, own[BATCHES])
    else:
        tensors.pop(BATCHES, None)
    try:
        check_tensors(path, tensors, own)
    except RunError as error:
        raise RunError(f"--init-from: another network, or images of another shape: {error}") from error
    model.load_state_dict(tensors)


def _set_output_bias(model: VAE, dataset: Dataset) -> None:
    """Make the first reconstruction the mean image; for convolutions, the mean over each channel."""
    mean = mean_image(dataset)
    last = [m for m in model.decoder.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)][-1]
    assert last.bias is not None
    if last.bias.numel() not in (mean.numel(), len(mean)):  # another network, which ends otherwise
        return
    values = mean.flatten() if last.bias.numel() == mean.numel() else mean.mean((1, 2))
    if model.likelihood.name == "bernoulli":
        values = torch.logit(values, eps=MEAN_CLIP)
    with torch.no_grad():
        last.bias.copy_(values)
