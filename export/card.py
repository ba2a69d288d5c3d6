"""The package's README.md: what a person sees when they open the folder."""

from vaeport.manifest import Manifest


def model_card(manifest: Manifest) -> str:
    """Markdown. It holds no time, host or path, so that the same run gives the same card."""
    model, training = manifest.model, manifest.training
    shape = "x".join(map(str, model.image_shape))
    data, metrics, checks = training["data"], training["metrics"], manifest.parity["checks"]
    return f"""# {manifest.name}, version {manifest.version}

A variational autoencoder ({model.family}, {model.likelihood} likelihood) with {model.latent_dim} latent dimensions
for images of {shape} (channels x height x width), in the format `{manifest.format}`: `encoder.onnx`, `decoder.onnx`
and, in `manifest.json`, the size and sha256 of every file.

## Use

```python
import vaeport

model = vaeport.load("{manifest.name}/{manifest.version}")  # this folder; needs vaeport[cpu] or vaeport[cuda]
mean = model.encode(images).mean  # uint8 or float in [0, 1], [N, H, W] or [N, C, H, W]
images = model.sample(16, seed=7)
```

## Training

| | |
|---|---|
| data | {data["name"]}, {data["train"]} images to train on, {data["test"]} to test on |
| pixels | {_pixels(manifest)} |
| epoch | {metrics["epoch"]:g}, chosen by: {training["epoch_chosen_by"]} |
| negative bound, test | {metrics["test_loss"]:.2f} nats per image |
| reconstruction, test | {metrics["test_reconstruction"]:.2f} nats per image |
| KL divergence, test | {metrics["test_kl"]:.2f} nats per image |

These numbers are of {training["setting"]}.

## Comparison with PyTorch

{checks} checks, all passed, against PyTorch in double precision; the rows are in `parity.json`, and
`python -m export verify` repeats them. The closest to its limit:

    {manifest.parity["worst"]}
{_not_run(manifest)}"""


def _not_run(manifest: Manifest) -> str:
    """What nobody has checked."""
    return "".join(f"    {row}\n" for row in manifest.parity["not_run"])


def _pixels(manifest: Manifest) -> str:
    """What was done to an image file."""
    done = manifest.preprocessing
    steps = [f"divided by {done.scale:g}"]
    if done.crop != "none":
        steps.insert(0, f"resized to {done.size[0]}x{done.size[1]} ({done.crop})")
    if done.binarization != "none":
        steps.append(f"binarised ({done.binarization})")
    return ", ".join(steps)
