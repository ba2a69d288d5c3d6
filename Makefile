# Every target runs its own set-up. Options: DATA, RUN, NAME, EPOCHS, RESUME, ARGS, MODELS, PORT, WORKERS, RUNTIME, PYTHON.

PYTHON  ?= python3
# The built-in data set, one from torchvision, or a path: a folder of images, a .npy or a .npz.
DATA    ?= digits
NAME    ?= $(patsubst %.npy,%,$(patsubst %.npz,%,$(notdir $(patsubst %/,%,$(DATA)))))
RUN     ?= runs/$(NAME)
MODELS  ?= models
# Large data sets need fewer passes: 60,000 images fewer than a few hundred.
EPOCHS  ?= $(if $(filter mnist fashion-mnist binarized-mnist cifar10,$(DATA)),10,300)
# 1 resumes an existing run.
RESUME  ?=
# Other flags of `python -m training --help`: ARGS="--image-size 64 --network conv".
ARGS    ?=
HOST    ?= 127.0.0.1
PORT    ?= 50051
WORKERS ?= 1
# The CUDA build of ONNX Runtime computes on the CPU where there is no GPU; it exists only for Linux on x86-64.
RUNTIME ?= $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),cuda,cpu)

# Both builds install the same module, so one must be removed before the other is installed.
OTHER_RUNTIME := $(if $(filter cuda,$(RUNTIME)),onnxruntime,onnxruntime-gpu)

BIN     := .venv/bin
STAMP   := .venv/installed-$(RUNTIME)
STUBS   := vaeport/v1/vae_pb2.py vaeport/v1/vae_pb2.pyi vaeport/v1/vae_pb2_grpc.py vaeport/v1/vae_pb2_grpc.pyi
PROTO   := protos/vaeport/v1/vae.proto
# The Open Inference Protocol: descriptors for a separate pool, and their types.
OIP     := serving/edge/oip
OIP_STUBS := $(OIP)/grpc_service.binpb $(OIP)/grpc_service_pb2.pyi
OIP_PROTO := protos/inference/grpc_service.proto

.DEFAULT_GOAL := help
# `make -j train export` must train first.
.NOTPARALLEL:
.PHONY: help install demo train export serve test soak lint format proto bench dist docs clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

install: $(STAMP)  ## .venv with every extra, editable; does nothing when it is up to date
$(STAMP): pyproject.toml constraints.txt
	@echo "installing into .venv (several GB the first time)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@rm -f .venv/installed-*
	@$(BIN)/python -m pip uninstall --quiet --yes $(OTHER_RUNTIME) >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[$(RUNTIME),serve,train,export,sign,traces,docs,examples,dev]' >&2
	@touch $@

# Checks the name before the training, not after it.
define check-name
printf '%s' '$(NAME)' | LC_ALL=C grep -Eqx '[A-Za-z0-9][A-Za-z0-9._-]{0,63}' || \
  { echo "NAME='$(NAME)': a model's name has letters, digits, dot, dash, underscore; say NAME=..." >&2; exit 1; }
endef

demo: $(STAMP)  ## train, export, serve and sample with the built-in data; prints the picture's path
	@$(BIN)/python -m examples.demo

train: $(STAMP)  ## DATA -> RUN (runs/NAME); RESUME=1 resumes an existing run
	@$(check-name)
	@$(BIN)/python -m training --data '$(DATA)' --run '$(RUN)' --epochs $(EPOCHS) $(ARGS) $(if $(filter 1 yes true,$(RESUME)),--resume)

export: $(STAMP)  ## RUN -> the next version of MODELS/NAME
	@$(check-name)
	@$(BIN)/python -m export '$(RUN)' --to '$(MODELS)/$(NAME)'

serve: $(STAMP)  ## MODELS on HOST:PORT, until Ctrl-C
	@$(BIN)/python -m serving --models '$(MODELS)' --host $(HOST) --port $(PORT) --workers $(WORKERS)

test: $(STAMP)  ## all tests but the long ones, a file on each core
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

soak: $(STAMP)  ## the long system tests
	@$(BIN)/python -m pytest -m soak --timeout 1200

lint: $(STAMP)  ## checks style, types, and that the stubs match the protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory proto OUT=$$(mktemp -d) CHECK=1

format: $(STAMP)  ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ifdef CHECK
proto: $(STAMP)
	@$(call generate,$(OUT))
	@diff -r $(OUT)/vaeport/v1 vaeport/v1 --exclude=__pycache__ --exclude=__init__.py >&2 \
	  || { echo "the stubs are not those of $(PROTO): run 'make proto'" >&2; exit 1; }
	@for stub in $(OIP_STUBS); do cmp $(OUT)/$$stub $$stub >&2 \
	  || { echo "the stubs are not those of $(OIP_PROTO): run 'make proto'" >&2; exit 1; }; done
	@rm -r $(OUT)
else
proto: $(STUBS) $(OIP_STUBS)  ## stubs from the protos; does nothing when they are newer
$(STUBS) $(OIP_STUBS) &: $(PROTO) $(OIP_PROTO) | $(STAMP)
	@$(call generate,.)
endif

define generate
PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I protos --python_out=$(1) --mypy_out=quiet:$(1) \
  --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTO)
mkdir -p $(1)/$(OIP)
PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I protos/inference --mypy_out=quiet:$(1)/$(OIP) \
  --descriptor_set_out=$(1)/$(OIP)/grpc_service.binpb $(OIP_PROTO)
endef

bench: $(STAMP)  ## ratios, each measured within one run
	@$(BIN)/python -m benchmarks

dist: $(STAMP)  ## release files, checked in a clean environment: wheel, sdist, the container's context
	@$(BIN)/python -m release dist

docs: $(STAMP)  ## the site, in site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:  ## delete caches and builds; never runs, models, data or .venv
	rm -rf dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -r {} +
