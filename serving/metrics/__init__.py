"""Prometheus metrics of all processes of a server, which docs/metrics.md describes one by one.

catalogue.py   what there is: names, kinds, labels, buckets        knows no Prometheus
recorder.py    in a worker: counts calls, batches and scores
gpus.py        memory of the GPUs
instruments.py the recorder's metrics, in files that the supervisor reads
folder.py      the files: counts of ended processes are kept, in one file of each kind
room.py        reserves the files before they are needed, so that a full disk is noticed
endpoint.py    in the supervisor: the folder, and the address where everything is scraped
status.py      what the supervisor answers when it is asked
supervisor.py  in the supervisor: its own metrics, and the text that is scraped
"""
