"""The server: packages of vaeport over gRPC, in dynamic batches. `python -m serving --help`.

edge/       gRPC: bytes to arrays, domain errors to statuses          knows grpc
security/   addresses, certificates, tokens, scopes                     knows no grpc
core.py     what each call means, free of any transport
models.py   from a folder of packages to graphs with queues
batching/   rows of many callers into batches                         knows neither grpc nor ONNX Runtime
engine/     the thread that computes them
metrics/    what workers count, and the text that Prometheus scrapes
tracing.py  spans of calls and batches
worker.py   one process: engine, core and edge, from start to drain
supervisor several workers on one port
"""
