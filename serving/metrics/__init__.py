"""Prometheus metrics of all processes of a server, which docs/metrics.md describes one by one.

catalogue.py   what there is: names, kinds, labels, buckets        knows no Prometheus
recorder.py    in a worker: counts calls, batches and scores
gpus.py        memory of the GPUs
made.py        the metrics that it counts with, in files that the supervisor reads
folder.py      the files: what ended processes counted is kept, in one file of each kind
room.py        the same files, made before they are needed, so that a full disk is noticed
endpoint.py    in the supervisor: the folder, and the address where all is scraped
status.py      what the supervisor is asked
supervisor.py  in the supervisor: its own metrics, and the text that is scraped
"""
