"""Results of the core as messages of the protocol."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from serving.batching import Duration, Statistics
from serving.edge.large_messages import Written
from serving.edge.oip import grpc_service_pb2 as pb
from serving.graphs import ServedGraph, TensorInterface
from serving.results import Inferred

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"  # what Triton calls graphs like these
DATATYPE = "FP32"  # of all graphs
FINAL = "triton_final_response"
MAX_ECHO = 1024  # characters that are repeated of what a stranger wrote

Response = TypeVar("Response", pb.ModelInferResponse, pb.ModelStreamInferResponse)
Make = Callable[[Inferred, Sequence[int], str], Response]


def infer_response(inferred: Inferred, outputs: Sequence[int], request_id: str) -> pb.ModelInferResponse:
    """The requested outputs as raw bytes, the only form that clients look at. The timings are parameters."""
    graph, timings = inferred.graph, inferred.timings
    arrays = [(graph.spec.outputs[index].name, inferred.outputs[index]) for index in outputs]
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=graph.name,
        model_version=graph.info.version,
        id=request_id,
        parameters={
            "queue_seconds": pb.InferParameter(double_param=timings.queue_seconds),
            "compute_seconds": pb.InferParameter(double_param=timings.compute_seconds),
            "batch_rows": pb.InferParameter(int64_param=timings.batch_rows),
        },
        outputs=[tensor(name=name, datatype=DATATYPE, shape=array.shape) for name, array in arrays],
        raw_output_contents=[np.ascontiguousarray(array, "<f4").tobytes() for _, array in arrays],
    )


def stream_response(inferred: Inferred, outputs: Sequence[int], request_id: str) -> pb.ModelStreamInferResponse:
    """One answer of a stream: the only one to its request."""
    response = infer_response(inferred, outputs, request_id)
    response.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=response)


def written(make: Make[Response], inferred: Inferred, outputs: Sequence[int], request_id: str) -> Written:
    """The response that `make` makes, serialised."""
    return Written(make(inferred, outputs, request_id).SerializeToString())


def stream_error(request: pb.ModelInferRequest, text: str) -> pb.ModelStreamInferResponse:
    """A stream's answer to a request that has failed; the stream goes on."""
    name, version, request_id = (text[:MAX_ECHO] for text in (request.model_name, request.model_version, request.id))
    which = pb.ModelInferResponse(model_name=name, model_version=version, id=request_id)
    which.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(error_message=text, infer_response=which)


def metadata(graph: ServedGraph) -> pb.ModelMetadataResponse:
    """Names, types and shapes of a graph."""
    return pb.ModelMetadataResponse(
        name=graph.name,
        versions=[graph.info.version],
        platform=PLATFORM,
        inputs=[_tensor(graph.spec.input)],
        outputs=[_tensor(output) for output in graph.spec.outputs],
    )


def config(graph: ServedGraph, max_rows: int) -> pb.ModelConfig:
    """The metadata in Triton's terms; `max_rows` is the limit of one request."""
    info, spec = graph.info, graph.spec
    parameters = {
        "package": info.name,
        "digest": info.digest,
        "likelihood": info.likelihood,
        "providers": ",".join(info.providers),
    }
    data_type = pb.TYPE_FP32
    return pb.ModelConfig(
        name=graph.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=max_rows,
        input=[pb.ModelInput(name=spec.input.name, data_type=data_type, dims=spec.input.dims)],
        output=[pb.ModelOutput(name=output.name, data_type=data_type, dims=output.dims) for output in spec.outputs],
        default_model_filename=f"{graph.role}.onnx",
        dynamic_batching=pb.ModelDynamicBatching(),
        parameters={key: pb.ModelParameter(string_value=value) for key, value in parameters.items()},
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )


def statistics(graph: ServedGraph) -> pb.ModelStatistics:
    """What a graph has done; see Statistics."""
    done: Statistics = graph.batcher.statistics
    computed = _duration(done.compute)
    untimed = pb.StatisticDuration(count=done.compute.count)  # its time is part of compute_infer
    return pb.ModelStatistics(
        name=graph.name,
        version=graph.info.version,
        last_inference=round(done.last_run * 1000),
        inference_count=done.rows,
        execution_count=sum(batch.count for batch in done.batches.values()),
        inference_stats=pb.InferStatistics(
            success=_duration(done.success),
            fail=_duration(done.fail),
            queue=_duration(done.queue),
            compute_input=untimed,
            compute_infer=computed,
            compute_output=untimed,
        ),
        batch_stats=[_batch(rows, done.batches[rows]) for rows in sorted(done.batches)],
    )


def _batch(rows: int, seconds: Duration) -> pb.InferBatchStatistics:
    untimed = pb.StatisticDuration(count=seconds.count)
    return pb.InferBatchStatistics(
        batch_size=rows, compute_input=untimed, compute_infer=_duration(seconds), compute_output=untimed
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=round(duration.seconds * 1e9))


def _tensor(tensor: TensorInterface) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=DATATYPE, shape=[-1, *tensor.dims])
