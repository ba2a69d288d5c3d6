"""Run by tests/system/test_other_versions.py with the library of one version: a few calls, their results in a file.

It uses only what every version since the first has: `python calls.py ADDRESS RESULTS`.
"""

import sys

import numpy as np

import vaeport


def main(address: str, results: str) -> None:
    """Call what there is, with one seed and the same images as ever, and see that mistakes are told apart."""
    with vaeport.Client(address) as client:
        images = np.random.default_rng(0).random((3, *client.image_shape), np.float32)
        encoding = client.encode(images)
        scores = client.score(images, importance_samples=4, seed=3)
        np.savez(
            results,
            mean=encoding.mean,
            log_var=encoding.log_var,
            decoded=client.decode(encoding.mean),
            sampled=client.sample(5, seed=7),
            reconstructed=client.reconstruct(images),
            elbo=scores.elbo,
            log_likelihood=scores.log_likelihood,
        )
        assert [(model.name, model.version) for model in client.info().models] == [("digits", "1")]
        try:
            client.decode(np.full((1, client.latent_dim + 1), 0.5))
        except vaeport.InvalidInputError as error:
            assert "expected" in str(error)  # noqa: PT017 - no pytest where this runs
        else:
            raise AssertionError("latents of a wrong length are taken")
    with vaeport.Client(address, model="no-such-model") as client:
        try:
            client.info()
        except vaeport.NotFoundError as error:
            assert "digits" in str(error)  # noqa: PT017
        else:
            raise AssertionError("a model that is not there is found")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
