"""The package's README.md: what a person sees when they open the folder, and Hugging Face when it is put there.

The lines between the first two `---` are YAML that Hugging Face reads (https://huggingface.co/docs/hub/model-cards).
"""

import json
import re
from typing import Any

from vaeport.golden import GOLDEN_NAME
from vaeport.manifest import Manifest

SAMPLES, TRAVERSALS, RECONSTRUCTIONS = "samples.png", "traversals.png", "reconstructions.png"
LIBRARY = "vaeport"
TASK = "unconditional-image-generation"  # of Hugging Face's list
TAGS = ("onnx", "variational-autoencoder", "vae")
# Not a metric of Hugging Face's list.
NEGATIVE_ELBO = ("negative_elbo", "negative ELBO on the test images, nats per image")
CARD_NAME = "README.md"
OVERRULED = "overruled"  # in manifest.parity: what spoke against a precision that was published all the same
IMAGES_INSIDE = "images_inside"  # in manifest.training: the files with images of the data


def model_card(manifest: Manifest) -> str:
    """YAML and Markdown. It holds no time, host or path, so that the same run gives the same card."""
    model, shape = manifest.model, "x".join(map(str, manifest.model.image_shape))
    return f"""---
{_metadata(manifest)}
---

# {manifest.name}, version {manifest.version}

A variational autoencoder ({model.family}, {model.likelihood} likelihood) with {model.latent_dim} latent dimensions
for images of {shape} (channels x height x width).

![Samples of the prior]({SAMPLES})

*Images that the model draws: the first rows of `model.sample(64, seed=0)`, as many as the picture has room for.*

![Traversals of latents]({TRAVERSALS})

*One latent a row, from -3 to 3, the others at 0. On the left the latent and its KL divergence in nats: the larger
it is, the more the model uses it. The rows are those with the largest, at most 8, and fewer where images are large.*
{_reconstructions(manifest)}
## Use

```python
import vaeport

model = vaeport.load("{manifest.name}/{manifest.version}")  # this folder; needs vaeport[cpu] or vaeport[cuda]
images = model.sample(16, seed=7)  # float32 {[16, *model.image_shape]} in [0, 1]
mean = model.encode(images).mean  # uint8 or float in [0, 1], [N, H, W] or [N, C, H, W] -> [N, {model.latent_dim}]
```

{_without_vaeport(manifest)}

The format is `{manifest.format}`; `manifest.json` has the size and sha256 of every file.

{_training(manifest)}

## Comparison with PyTorch

{manifest.parity["checks"]} checks, all passed, against PyTorch in double precision; the rows are in `parity.json`, and
`python -m export verify` repeats them. The closest to its limit:

    {manifest.parity["worst"]}
{_not_run(manifest)}{_precisions(manifest)}
## What is in this folder

{_inside(manifest)}

No licence is stated here: which one holds depends on the data that the model was trained on.
"""


def _metadata(manifest: Manifest) -> str:
    """The YAML: every string quoted, since a data set may have any name."""
    training = manifest.training
    data = _quoted(training["data"]["name"])
    metric, description = NEGATIVE_ELBO
    return "\n".join(
        [
            f"library_name: {LIBRARY}",
            f"pipeline_tag: {TASK}",
            "tags:",
            *(f"- {tag}" for tag in TAGS),
            "model-index:",
            f"- name: {_quoted(manifest.name)}",
            "  results:",
            "  - task:",
            f"      type: {TASK}",
            "    dataset:",
            f"      name: {data}",
            f"      type: {data}",
            "      split: test",
            "    metrics:",
            f"    - type: {metric}",
            f"      name: {description}",
            f"      value: {_negative_elbo(training['metrics']):.2f}",
        ]
    )


def _reconstructions(manifest: Manifest) -> str:
    if RECONSTRUCTIONS not in manifest.training[IMAGES_INSIDE]:
        return ""
    return f"""
![Images and their reconstructions]({RECONSTRUCTIONS})

*Images of the data that the model was not trained on, each above its reconstruction.*
"""


def _without_vaeport(manifest: Manifest) -> str:
    latent_dim = manifest.model.latent_dim
    return f"""Or with ONNX Runtime alone:

```python
import numpy as np
import onnxruntime

decoder = onnxruntime.InferenceSession("{manifest.name}/{manifest.version}/decoder.onnx")
latents = np.random.default_rng(7).standard_normal((16, {latent_dim}), np.float32)
images = decoder.run(["image"], {{"latent": latents}})[0]
```"""


def _training(manifest: Manifest) -> str:
    training = manifest.training
    data, metrics = training["data"], training["metrics"]
    rows = [
        ("data", f"{_text(data['name'])}, {data['train']} images to train on, {data['test']} to test on"),
        ("pixels", _pixels(manifest)),
        ("epoch", f"{metrics['epoch']:g}, chosen by: {training['epoch_chosen_by']}"),
        ("negative ELBO, test", f"{_negative_elbo(metrics):.2f} nats per image"),
        ("reconstruction, test", f"{metrics['test_reconstruction']:.2f} nats per image"),
        ("KL divergence, test", f"{metrics['test_kl']:.2f} nats per image"),
        *_measures(training["evaluation"]),
    ]
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return f"## Training\n\n| | |\n|---|---|\n{table}\n\nThese numbers are of {training['setting']}."


def _negative_elbo(metrics: dict[str, Any]) -> float:
    """Of the test images. Their loss is another bound where IWAE or DReG was minimised."""
    return float(metrics["test_reconstruction"] + metrics["test_kl"])


def _measures(evaluation: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What `python -m training evaluate` found for these weights."""
    if not evaluation:
        return []
    rows = [("active latents", f"{evaluation['active_units']}")]
    if likelihood := evaluation["log_likelihood"]:
        label = f" ({likelihood['label']})" if likelihood["label"] else ""
        text = f"{likelihood['mean']:.2f} nats per image, {likelihood['samples']} importance samples{label}"
        rows.append(("log-likelihood, test", text))
    return rows


def _not_run(manifest: Manifest) -> str:
    """What has not been checked."""
    return "".join(f"    {row}\n" for row in manifest.parity["not_run"])


def _precisions(manifest: Manifest) -> str:
    """What another precision than fp32 costs."""
    if not manifest.precisions:
        return ""
    rows = "\n".join(
        f"| `{name}` | {spec.target} | {spec.elbo_change:.3g} nats per image, at most {spec.elbo_limit:.3g} "
        f"| {spec.image_change:.2g} | {'measured' if spec.speed_measured else 'not measured'} |"
        for name, spec in sorted(manifest.precisions.items())
    )
    return f"""
## Other precisions

| | for | mean change of the ELBO, and its limit | of a reconstruction's pixels, root mean square | speed |
|---|---|---|---|---|
{rows}

Against fp32, both in exact arithmetic. `vaeport.load(..., precision=...)` takes one; none is taken unasked.
{_overruled(manifest)}"""


def _overruled(manifest: Manifest) -> str:
    """What spoke against a precision; packages of earlier versions do not say."""
    lines = "".join(f"* {text}\n" for text in manifest.parity.get(OVERRULED, []))
    return f"\nPublished in spite of this:\n\n{lines}" if lines else ""


def _inside(manifest: Manifest) -> str:
    """Whether there are images of the data, which must be known before the package is passed on."""
    if inside := manifest.training[IMAGES_INSIDE]:
        files = " and ".join(f"`{name}`" for name in inside)
        return f"**Images of the data are in this package**: in {files}. Pass it on to those who may see them."
    return f"""Graphs, weights, and what follows from them. No image of the data: the pictures are drawn by the model,
and `{GOLDEN_NAME}` has synthetic rows. (What weights alone give away about the data has not been examined.)"""


def _pixels(manifest: Manifest) -> str:
    """What was done to an image file."""
    done = manifest.preprocessing
    steps = [f"divided by {done.scale:g}"]
    if done.crop != "none":
        steps.insert(0, f"resized to {done.size[0]}x{done.size[1]} ({done.crop})")
    if done.binarization != "none":
        steps.append(f"binarised ({done.binarization})")
    return ", ".join(steps)


def _quoted(text: str) -> str:
    r"""A YAML string in ASCII. Python's escapes of what is not (\xe9, \u20ac, \U0001f600) are those of YAML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\x7f").encode("ascii", "backslashreplace").decode()


def _text(text: str) -> str:
    """A name as itself in Markdown: a data set may be called anything, `|` or `<script>` too."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&$])", r"\\\1", printable)
