"""From a run to a package: graphs, the comparison with PyTorch, and the folder. `python -m export --help`.

pipeline.py  the steps, in order
graphs.py    encoder and decoder as ONNX, free of traces of this machine
parity.py    every output against PyTorch in double precision; nothing is written when one is off
package.py   the folder: written aside, read back, renamed into place
card.py      the package's README.md
"""
