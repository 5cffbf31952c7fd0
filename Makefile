# Everything happens in .venv; `make test` and `make demo` set it up on a bare machine.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test health-sets lint format bench bench-plain-sort bench-report soak fuzz arm-check cuda-matrix gpu-check docs clean
.DELETE_ON_ERROR:

$(VENV)/torch.stamp:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	touch $@

# One stamp per extra: `make demo` does not wait for the tools of the tests.
$(VENV)/%.stamp: $(VENV)/torch.stamp pyproject.toml setup.py build_cuda.py $(NATIVE)
	$(PIP) --editable '.[$*]'
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/finetune_bert.py $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(ARGS)

# trainings with planted faults and healthy ones, three seeds each: what the rules say, as docs/health/evidence.md
health-sets: $(VENV)/test.stamp
	cd tests/health && OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/python -m sets $(ARGS)

soak: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m soak tests $(ARGS)

# ARGS=600: seconds. Needs clang++.
fuzz: $(VENV)/test.stamp
	$(BIN)/python tests/repository/native/fuzz.py $(ARGS)

# The core for aarch64, under qemu: its bytes are compared with this machine's, its instructions counted. Needs Debian's
# g++-aarch64-linux-gnu and qemu-user.
arm-check: $(VENV)/test.stamp
	PYTHONPATH=tests/repository $(BIN)/python -m native.arm_check

bench: $(VENV)/bench.stamp
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only \
	  --benchmark-columns=median,iqr,rounds --benchmark-json=build/benchmarks.json $(ARGS)

# add_histogram once more where NumPy, and so tensorboardX, sorts without SIMD
bench-plain-sort: $(VENV)/bench.stamp
	mkdir -p build
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" $(BIN)/python -m pytest \
	  benchmarks/cases/test_histogram_call.py --benchmark-enable --benchmark-only \
	  --benchmark-columns=median,iqr,rounds --benchmark-json=build/benchmarks-plain-sort.json $(ARGS)

# docs/benchmarks.md, its plots and README's table from the last `make bench bench-plain-sort`
bench-report: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/report/pages.py build/benchmarks.json build/benchmarks-plain-sort.json

# nvcc for every architecture; `make test` compiles for two
cuda-matrix: $(VENV)/test.stamp
	FASTLOG_TEST_CUDA_ARCHS=all $(BIN)/python -m pytest tests/cuda/test_cuda_build.py

# On a machine with a GPU: builds the engine for it, tests it there, and writes docs/gpu.md. Uses a torch that is there;
# without one it makes .venv, which needs a network.
gpu-check:
	if $(PYTHON) -c "import torch"; then $(PYTHON) tools/gpu_check.py $(ARGS); \
	else FASTLOG_CUDA=off $(MAKE) $(VENV)/test.stamp && $(BIN)/python tools/gpu_check.py $(ARGS); fi

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

clean:
	rm -rf $(VENV) build dist *.egg-info fastlog/*.so
