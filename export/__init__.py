"""From a run to a package: graphs, their proof, and the folder. `python -m export --help`.

pipeline.py  the steps, in order
graphs.py    encoder and decoder as ONNX, free of traces of this machine
variants.py  them in another precision, and with images as bytes (edges.py)
             calibration.py, precisions.py: what int8 learns its ranges from; what a precision costs
torchscript.py  the same two functions for PyTorch and LibTorch
ladder.py    the proof, rung by rung; nothing is written when one breaks (docs/proof.md)
             structure.py, truth.py, evaluator.py, limits.py, inputs.py, runtimes.py, end_metric.py: what it is made of
parity.py    the rows that come out of it
golden.py    the vectors that every reader of the package can replay
verify.py    the proof again, from the package alone, and claims.py, what it says besides
package.py   the folder: written aside, read back, renamed into place
card.py      the package's README.md, with pictures.py
bom.py       its bill of materials, in CycloneDX
triton.py    a package as a model repository of NVIDIA Triton
onnx_tests.py  its golden vectors as test cases of ONNX
sign.py      its signature
"""
