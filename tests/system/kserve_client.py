"""KServe's client, in an interpreter that has it: asks a server, and keeps what it says. test_oip_clients.py runs it.

python kserve_client.py ADDRESS IMAGES.npy ANSWERS.npz
"""

import asyncio
import sys

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient


async def ask(address: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the encoder makes of the images, sent in both ways."""
    found: dict[str, np.ndarray] = {}
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits_encoder")
        assert not await client.is_model_ready("nothing")
        for way, raw in (("raw", True), ("typed", False)):
            tensor = InferInput("image", list(images.shape), "FP32")
            tensor.set_data_from_numpy(images, binary_data=raw)
            answer = await client.infer(InferRequest("digits_encoder", [tensor], request_id=way))
            assert answer.id == way
            found |= {f"{way}_{output.name}": output.as_numpy() for output in answer.outputs}
    return found


if __name__ == "__main__":
    answers = asyncio.run(ask(sys.argv[1], np.load(sys.argv[2])))
    np.savez(sys.argv[3], allow_pickle=False, **answers)
