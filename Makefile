# Every recipe is a line that you could type. `make help` lists the targets.
# What make installs beside Debian packages lies in .cache, what it builds in bin.

STATICCHECK := v0.8.2
PROTOC_GEN_GO := v1.36.12
PROTOC_GEN_GO_GRPC := v1.6.2

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
PACKAGES := dcmtk orthanc dicom3tools libgdcm-tools gcc g++ libc6-dev pkg-config libopenjp2-7-dev libcharls-dev protobuf-compiler rsyslog rsyslog-gnutls
GO_FOLDERS := cmd dimse models node plugins store trainer
LDFLAGS := -s -w -X hilum/cmd/hilum/command.version=$(VERSION)
DURATION ?= 1m
PYTHON := $(CURDIR)/.cache/venv/bin/python

.PHONY: help setup setup-trainer packages runtime build test lint demo bench bench-infer bench-prepare bench-receive bench-road bench-train soak crash-test fuzz clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

setup: packages .cache/venv.stamp runtime ## install what is missing: Debian packages, Python environment, ONNX Runtime

packages:
	@sh .ci/packages $(PACKAGES)

.cache/venv.stamp: trainer/torch/requirements.lock .ci/python
	sh .ci/python trainer/torch/requirements.lock venv && touch $@

setup-trainer: .cache/torch.stamp ## install PyTorch, which `hilum train detector|classifier|export` run on (5 GB)

.cache/torch.stamp: trainer/torch/training.lock .ci/python
	sh .ci/python trainer/torch/training.lock torch && touch $@

runtime: .cache/venv.stamp ## install ONNX Runtime into .cache/runtime (for the GPU if there is an NVIDIA driver)
	@PATH=$(CURDIR)/.cache/uv/bin:$$PATH bash plugins/lungnodule/runtime.sh # uv's environment has pip

build: packages ## build bin/hilum (static) and the plugins
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/hilum ./cmd/hilum
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/plugins/null ./plugins/null
	CGO_ENABLED=1 go build -trimpath -ldflags '-s -w' -o bin/plugins/lungnodule ./plugins/lungnodule

test: setup setup-trainer build lint ## everything that CI runs
	HILUM_PYTHON=$(PYTHON) go test -race ./...

lint: .cache/venv.stamp .cache/staticcheck-$(STATICCHECK).stamp .cache/protoc-$(PROTOC_GEN_GO)-$(PROTOC_GEN_GO_GRPC).stamp ## format, vet, staticcheck, ruff, generated code
	test -z "$$(gofmt -l $(GO_FOLDERS) | tee /dev/stderr)"
	go vet ./...
	.cache/bin/staticcheck ./...
	.cache/venv/bin/ruff check --no-cache $(GO_FOLDERS) .ci/dockerfile-check
	.cache/venv/bin/ruff format --no-cache --check $(GO_FOLDERS) .ci/dockerfile-check
	sh .ci/generated

.cache/staticcheck-$(STATICCHECK).stamp:
	GOBIN=$(CURDIR)/.cache/bin go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK) && touch $@

.cache/protoc-$(PROTOC_GEN_GO)-$(PROTOC_GEN_GO_GRPC).stamp: | packages
	GOBIN=$(CURDIR)/.cache/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO)
	GOBIN=$(CURDIR)/.cache/bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC) && touch $@

demo: setup build ## run a node, send it a chest CT (CT=FOLDER: yours), print the findings
	rm -rf .cache/demo
	bin/hilum demo --out .cache/demo $(if $(CT),--ct "$(CT)")

bench-receive: build ## how fast scanners can send, against storescp, Orthanc and the disk
	sh .ci/packages orthanc
	go run ./cmd/bench-receive -hilum bin/hilum

bench-road: build ## the time from the last image of a series to its report at a destination, without inference
	sh .ci/packages dcmtk
	go run ./cmd/bench-receive -hilum bin/hilum -road

bench-prepare: build .cache/venv.stamp ## train prepare against NumPy and SciPy (CT=FOLDER: yours)
	$(PYTHON) trainer/torch/bench/prepare_reference.py --hilum bin/hilum $(CT)

bench-infer: build .cache/torch.stamp runtime ## the plugin on each provider against PyTorch (MODEL=FOLDER, CT=FOLDER: yours)
	.cache/torch/bin/python trainer/torch/bench/infer_reference.py $(if $(CT),--scan "$(CT)") $(MODEL)

bench-train: build .cache/torch.stamp ## training of hilum-net and n-net against that of n-net's source: crops per second, FLOP/s, memory (DATA=FOLDERS: yours; ARGS)
	.cache/torch/bin/python trainer/torch/bench/train_reference.py $(ARGS) $(DATA)

bench: build ## run the benchmarks
	go test -run '^$$' -bench . -benchmem ./...

soak: ## peers of all kinds, honest and hostile, for DURATION (30m: more than 100,000 associations); prints memory, goroutines, descriptors
	HILUM_SOAK_DURATION=$(if $(filter command line,$(origin DURATION)),$(DURATION),30m) go test -count=1 -timeout 0 -run '^TestSoak$$' -v ./cmd/hilum

crash-test: ## kill -9 nodes under load for DURATION (1m), then stores on disks that fail and are full, compare every acknowledged image byte for byte
	HILUM_CRASH_DURATION=$(DURATION) go test -count=1 -timeout 0 -run '^TestCrash$$' -v ./cmd/hilum
	HILUM_CRASH_DURATION=$(DURATION) go test -count=1 -timeout 0 -run '^TestKill$$' -v ./store

fuzz: ## every fuzz target for DURATION (1m) each, on all cores; fails when one finds something
	sh .ci/fuzz $(DURATION)

clean: ## remove what make built and installed (Debian packages stay)
	rm -rf bin .cache
