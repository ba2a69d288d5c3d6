"""Samples and embeddings through NVIDIA's tritonclient, without our library: the Open Inference Protocol alone.

    python -m examples.triton_client localhost:50051 digits

A vaeport server offers each model as two: `<name>_encoder` turns `image` into `mean` and `log_var`, `<name>_decoder`
turns `latent` into `image` and what that was computed from. So what was written for Triton or KServe works as it is:
clients, load generators, gateways. Here latents from the prior become images, which are encoded again; it prints the
shapes.

For your own use: `infer` is all there is to a call. Images are [rows, channels, height, width], float32 in [0, 1], or
uint8, which the server divides by 255. `InferenceServerClient(address, ssl=True)` is tritonclient's way of TLS, and
`headers={"authorization": "Bearer ..."}` of `infer` that of tokens. The protocol knows nothing of seeds, scores and
streams of samples; for these there is `vaeport.Client`.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

COUNT = 16
SEED = 7
TIMEOUT_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    """Decode, encode, and print what came back."""
    address, model = arguments
    client = triton.InferenceServerClient(address)
    try:
        sample_and_embed(client, model)
    except InferenceServerException as error:
        print(f"triton_client: error: {error.status()}: {error.message()}", file=sys.stderr)
        return 1
    finally:
        client.close()
    return 0


def sample_and_embed(client: triton.InferenceServerClient, model: str) -> None:
    """Images from the prior and their embeddings."""
    about = client.get_model_metadata(f"{model}_decoder", client_timeout=TIMEOUT_SECONDS)
    latent_dim = about.inputs[0].shape[1]  # [-1, latent_dim]
    latents = np.random.default_rng(SEED).standard_normal((COUNT, latent_dim), np.float32)
    images = infer(client, f"{model}_decoder", "latent", latents, ["image"])["image"]
    encoded = infer(client, f"{model}_encoder", "image", images, ["mean", "log_var"])
    for name, tensor in {"latent": latents, "image": images, **encoded}.items():
        print(f"{name}: {tensor.dtype} {list(tensor.shape)}")


def infer(
    client: triton.InferenceServerClient, model: str, name: str, rows: NDArray[np.generic], outputs: list[str]
) -> dict[str, NDArray[np.float32]]:
    """One call: the outputs by name, as many rows as went in."""
    tensor = triton.InferInput(name, list(rows.shape), np_to_triton_dtype(rows.dtype))
    tensor.set_data_from_numpy(rows)
    wanted = [triton.InferRequestedOutput(output) for output in outputs]
    result = client.infer(model, [tensor], outputs=wanted, client_timeout=TIMEOUT_SECONDS)
    return {output: result.as_numpy(output) for output in outputs}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
