"""The settings of a run: one frozen object, made once in `main`; the text of each field is its --help."""

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from training.errors import TrainingError

MIN_SIGMA = 0.0025  # of a Gaussian pixel in [0, 1]: exp(training.likelihood.MIN_LOG_SIGMA), rounded up
UNRECORDED = ("resume", "recipe")  # settings that a run does not keep


def data_root() -> Path:
    """The folder of the named data sets: VAEPORT_DATA_ROOT, or data/. Only a `main` may call this."""
    return Path(os.environ.get("VAEPORT_DATA_ROOT", "data"))


class ConfigError(TrainingError, ValueError):
    """A setting is outside its range, or conflicts with another."""


@dataclass(frozen=True, slots=True)
class Config:
    """Train a variational autoencoder on images, and leave a run directory behind."""

    data: str = "digits"
    """digits (built in), mnist, fashion-mnist, cifar10, binarized-mnist (Larochelle's), or a path: a folder of images
    (subfolders are labels), .npy or .npz."""

    run: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: runs/NAME)")] = Path()
    """The run directory to make; without it, runs/ and the name of the recipe, or else of the data."""

    test_data: str = ""
    """A path to test on, of the same kinds; without it, the data's own test part, or --test-fraction of the images."""

    test_fraction: float = 0.1
    """The share of the images kept for the test, for data that have no test part."""

    split_seed: int = 0
    """Seed of the split into training and test images, and of the draw of --binarization static."""

    image_size: int | None = None
    """Bring every image to this height and width; without it, all must have one size."""

    crop: Literal["center", "pad"] = "center"
    """How --image-size treats images that are not square: cut the centre out, or pad them with black."""

    channels: Literal[1, 3] | None = None
    """Make every image grey (1) or colour (3); without it, grey if all are."""

    binarization: Literal["none", "dynamic", "threshold", "static"] = "none"
    """Pixels as they are, between 0 and 1; a fresh 0 or 1 each time an image is used, 1 with the pixel as its
    probability; 1 where the pixel is above a half; or one draw for the whole run."""

    network: Literal["mlp", "conv", "linear"] = "mlp"
    """Fully connected; convolutions, for heights and widths that 4 divides; or one linear map each way."""

    latent_dim: int = 20
    """Latent dimensions. 2 adds a picture of the latent plane."""

    hidden_dims: tuple[int, ...] = (400, 400)
    """mlp: widths of the encoder's hidden layers; the decoder has them in reverse. conv: the last one is the width of
    the layer between convolutions and latent."""

    activation: Literal["relu", "tanh"] = "relu"
    """Activation between the layers of mlp and conv."""

    init: Literal["torch", "glorot"] = "torch"
    """Weights to start from: PyTorch's defaults; or Glorot uniform, with the output's bias set to the mean image."""

    init_from: Path | None = None
    """Start from the weights of this run instead, to go on with new data. The latent space moves."""

    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x|z) of a pixel: a probability, or a normal distribution with one variance for all pixels."""

    variance: Literal["learned", "analytic", "fixed"] = "learned"
    """The Gaussian's variance: learned; the best value for each batch, its mean squared error; or --sigma squared."""

    sigma: float = 1.0
    """Standard deviation of the Gaussian, pixels being in [0, 1]: the fixed one, or where the learned one starts."""

    objective: Literal["elbo", "iwae", "dreg"] = "elbo"
    """The bound to maximise: the ELBO; the importance-weighted one; that with the doubly reparameterised gradient."""

    importance_samples: int = 1
    """Latents drawn per image. The ELBO averages over them, the importance-weighted bounds weigh them."""

    autoencoder: bool = False
    """A plain autoencoder, for comparison: the latent is the mean, and there is no KL term."""

    beta: float = 1.0
    """Weight of the KL term. Evaluations always use 1."""

    warmup_epochs: float = 0.0
    """Epochs over which beta, or the capacity, rises linearly from 0. It must end before the run."""

    warmup_steps: int = 0
    """The same in steps."""

    cycles: int = 0
    """Start beta from 0 again this often, in equal parts of the run, each of 4 steps at least: it rises linearly in the
    first half of each."""

    free_bits: float = 0.0
    """Nats of KL per latent that cost nothing, as a mean over the batch."""

    capacity: float | None = None
    """Nats that the KL term is held at: it becomes gamma |KL - capacity|."""

    gamma: float = 100.0
    """Weight of the distance from --capacity."""

    epochs: int = 30
    """Passes over the training images."""

    batch_size: int = 128
    """Images per step, over all processes."""

    lr: float = 1e-3
    """Learning rate of Adam."""

    lr_schedule: Literal["constant", "cosine", "iwae", "steps"] = "constant"
    """The rate over the run: constant; down to 0 along half a cosine; in eight stages, each three times as long as the
    one before and 10^(1/7) times slower; or times --lr-decay after each of --lr-milestones."""

    lr_milestones: tuple[int, ...] = ()
    """Epochs after which --lr-schedule steps lowers the rate, in rising order."""

    lr_decay: float = 0.1
    """The factor by which --lr-schedule steps multiplies the rate each time."""

    adam_epsilon: float = 1e-8
    """Added to the root of Adam's second moment."""

    patience: int = 0
    """Stop after this many epochs without a lower value of the objective on the test images, once the warm-up is over;
    0 never stops."""

    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Precision of matrix products and convolutions; tf32 needs CUDA."""

    seed: int = 0
    """Seed of everything random except the split: the weights, the order of the images, the noise."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is a GPU."""

    resume: bool = False
    """Go on with an existing run, from where it was stopped to --epochs."""

    recipe: Path | None = None
    """A TOML file with settings; those on the command line win."""

    def with_default_run(self) -> "Config":
        """The same, with `run` filled in; ConfigError if neither recipe nor data have a name to give it."""
        if self.run != Path():
            return self
        if self.recipe is not None:
            return replace(self, run=Path("runs") / self.recipe.stem)
        if _name_of(self.data) in ("", ".."):
            raise ConfigError(f"--run: {self.data!r} gives the run no name; name it")
        return replace(self, run=Path("runs") / _name_of(self.data))

    def check(self) -> None:
        """Raise ConfigError for a number outside its range, or settings that exclude each other."""
        if not self.data.strip():
            raise ConfigError("--data: expected the name of a data set or a path, got nothing")
        self._check_ranges()
        self._check_combinations()

    def without_effect(self) -> list[str]:
        """The given flags that have no effect with the others, each with the reason."""
        gaussian, hidden = self.likelihood == "gaussian", self.network != "linear"
        several = self.network == "conv" and len(self.hidden_dims) > 1
        started = self.init_from is not None
        other_test = bool(self.test_data)
        judged_from = math.ceil(self.warmup_epochs) + 1  # the first epoch that --patience counts from
        reasons = (
            ("variance", gaussian, "without --likelihood gaussian"),
            ("sigma", gaussian and self.variance != "analytic", "but for a learned or fixed --variance of a Gaussian"),
            (
                "sigma",
                not (started and self.variance == "learned"),
                "beside --init-from: it goes on from that of the run",
            ),
            ("hidden_dims", hidden, "on --network linear"),
            ("hidden_dims", not several, "on --network conv, but for the last"),
            ("activation", hidden, "on --network linear"),
            ("gamma", self.capacity is not None, "without --capacity"),
            ("lr_milestones", self.lr_schedule == "steps", "without --lr-schedule steps"),
            ("lr_milestones", max(self.lr_milestones, default=0) < self.epochs, "after the last of --epochs"),
            ("lr_decay", self.lr_schedule == "steps", "without --lr-schedule steps"),
            ("crop", self.image_size is not None, "without --image-size"),
            ("test_fraction", not other_test, "beside --test-data"),
            ("split_seed", not other_test or self.binarization == "static", "beside --test-data"),
            ("init", not started, "beside --init-from"),
            ("patience", judged_from + self.patience < self.epochs, "in a run that ends before, warm-up included"),
        )
        return [
            f"{flag(name)} has no effect {reason}"
            for name, effective, reason in reasons
            if not effective and getattr(self, name) != getattr(DEFAULTS, name)
        ]

    def schedule_spans_run(self) -> str | None:
        """The flag whose schedule depends on the number of epochs, so that a resumed run cannot change it."""
        if self.lr_schedule in ("cosine", "iwae"):
            return "--lr-schedule"
        return "--cycles" if self.cycles else None

    def to_json(self) -> dict[str, Any]:
        """The settings as run.json holds them."""
        kept = {name: value for name, value in asdict(self).items() if name not in UNRECORDED}
        return {name: _plain(value) for name, value in kept.items()}

    def arguments(self) -> list[str]:
        """The command line that makes this configuration: what differs from the defaults, and the data and the run."""
        line: list[str] = []
        for name, value in self.to_json().items():
            if name in ("data", "run") or value != DEFAULTS.to_json()[name]:
                line += words(name, value)
        return line

    def _check_ranges(self) -> None:
        for name in ("epochs", "latent_dim", "batch_size", "importance_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)}: expected at least 1, got {getattr(self, name)}")
        for name in ("lr", "sigma", "gamma", "adam_epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{flag(name)}: expected a positive number, got {getattr(self, name)}")
        for name in ("beta", "free_bits", "capacity", "warmup_epochs", "warmup_steps", "cycles", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{flag(name)}: expected 0 or a positive number, got {value}")
        if not 0 < self.lr_decay <= 1:
            raise ConfigError(f"--lr-decay: expected a number above 0 and at most 1, got {self.lr_decay}")
        rising = all(before < after for before, after in pairwise((0, *self.lr_milestones)))
        if not rising or (self.lr_schedule == "steps" and not self.lr_milestones):
            got = list(self.lr_milestones) or "nothing"
            raise ConfigError(f"--lr-milestones: expected epochs from 1 in rising order, got {got}")
        if self.likelihood == "gaussian" and self.sigma < MIN_SIGMA:
            raise ConfigError(f"--sigma: expected at least {MIN_SIGMA}, half a grey level of 255, got {self.sigma}")
        for name in ("seed", "split_seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ConfigError(f"{flag(name)}: expected 0 <= {name} < 2^63, got {getattr(self, name)}")
        if min(self.hidden_dims, default=1) < 1:
            raise ConfigError(f"--hidden-dims: expected widths of at least 1, got {list(self.hidden_dims)}")
        if not self.hidden_dims and self.network == "conv":
            raise ConfigError("--hidden-dims: expected one width at least for --network conv, got none")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction: expected a number between 0 and 1, got {self.test_fraction}")
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"--image-size: expected at least 1, got {self.image_size}")

    def _check_combinations(self) -> None:
        warmup = self.warmup_epochs or self.warmup_steps
        bounds = self.objective != "elbo"
        excluded = (
            (self.warmup_epochs > 0 and self.warmup_steps > 0, "--warmup-epochs and --warmup-steps: give one of them"),
            (self.cycles and warmup, "--cycles has a warm-up of its own in each cycle"),
            (self.cycles and self.patience, "--patience would stop within a cycle of --cycles"),
            (self.cycles and self.capacity is not None, "--cycles is for beta, --capacity takes its place"),
            (self.capacity is not None and self.beta != 1.0, "--capacity and --beta both weigh the KL term"),
            (self.capacity is not None and self.free_bits, "--capacity and --free-bits both change the KL term"),
            (bounds and self.capacity is not None, f"--objective {self.objective} has no KL term for --capacity"),
            (bounds and self.free_bits, f"--objective {self.objective} has no KL term for --free-bits"),
            (
                bounds and self.analytic,
                f"--variance analytic is fitted to the ELBO, not to --objective {self.objective}",
            ),
            (self.autoencoder and bounds, "--autoencoder has no bound: leave --objective"),
            (
                self.autoencoder and self.importance_samples > 1,
                "--autoencoder draws no latents for --importance-samples",
            ),
            (self.autoencoder and (self.beta != 1.0 or warmup or self.cycles), "--autoencoder has no KL term to weigh"),
            (self.autoencoder and (self.free_bits or self.capacity is not None), "--autoencoder has no KL term"),
            (self.likelihood == "gaussian" and self.binarization != "none", "binary pixels are not Gaussian"),
            (self.warmup_epochs >= self.epochs, f"--warmup-epochs {self.warmup_epochs:g} does not end before the run"),
            (self.precision == "tf32" and self.device == "cpu", "--precision tf32 needs CUDA"),
        )
        for wrong, message in excluded:
            if wrong:
                raise ConfigError(message)

    @property
    def analytic(self) -> bool:
        """Whether the Gaussian's variance is that of each batch."""
        return self.likelihood == "gaussian" and self.variance == "analytic"


DEFAULTS = Config()


def flag(name: str) -> str:
    """The command line's word for a field."""
    return f"--{name.replace('_', '-')}"


def check_names(names: Iterable[str], where: object) -> None:
    """Raise ConfigError, naming the file `where`, for a name that is no setting of a run."""
    known = {field.name for field in fields(Config)} - set(UNRECORDED)
    if unknown := sorted(set(names) - known):
        raise ConfigError(f"{where}: unknown settings: {', '.join(unknown)}")


def config_from_json(values: dict[str, Any], where: str) -> Config:
    """The settings that `Config.to_json` gave.

    Args:
        values: by field name; missing fields have their default.
        where: the file they came from, for errors.

    Raises:
        ConfigError: a name is not a setting, or a value has the wrong type.
    """
    check_names(values, where)
    kinds = get_type_hints(Config)
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            expected = getattr(kinds[name], "__name__", str(kinds[name])).replace("typing.", "")
            raise ConfigError(f"{where}: {name}: expected {expected}, got {value!r}")
    paths = {name: Path(values[name]) for name in ("run", "init_from") if values.get(name) is not None}
    tuples: dict[str, Any] = {name: tuple(values[name]) for name in ("hidden_dims", "lr_milestones") if name in values}
    return Config(**{**values, **paths, **tuples})


def _fits(value: object, kind: Any) -> bool:
    """Whether a value out of JSON or TOML is of the type of a field: a path is text, and a whole number a float."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (UnionType, Union):  # Union is what `Literal[...] | None` makes
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (str if kind is Path else kind)


def words(name: str, value: object) -> list[str]:
    """The command line that gives a setting its value."""
    if isinstance(value, bool):
        return [flag(name)] if value else [f"--no-{name.replace('_', '-')}"]
    if isinstance(value, list):
        return [flag(name), *map(str, value)]
    return [flag(name), str(value)]


def _name_of(data: str) -> str:
    """The name of a data set or a path, without the suffix of an array; other dots, as of folders, stay in the name."""
    path = Path(data)
    return path.stem if path.suffix in (".npy", ".npz") else path.name


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
