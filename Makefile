# Everything is built with one profile (release) and with the tests' dependencies in the same resolution, so that RocksDB
# and Cedar, a quarter of an hour on two cores, are built once for all of these.

.PHONY: help demo test test-long soak fuzz reproducible mutants coverage lint build setup

CARGO ?= cargo
# `--test tidy` is named so that the features of what the tests need are resolved as for `make test`: without it cargo
# would build a good part of the tree a second time, with other features.
BUILD = $(CARGO) build --release --locked --bin cloakroom --test tidy

help:
	@echo "make demo       watch payment orders lose their card numbers to tokens (ORDERS=file, KEEP=1)"
	@echo "make test       what proves that it works; minutes"
	@echo "make test-long  power cuts, kill -9, fuzzers, a million lines; three quarters of an hour"
	@echo "make soak       load with faults in between, for as long as you like (TIME=8h, SEED=7 to do it again)"
	@echo "make fuzz       every parser and every call under a fuzzer (TIME=28800 seconds for each, TARGET=config,policy, SEED=7)"
	@echo "make build      the program, target/release/cloakroom"
	@echo "make reproducible  whether a release that is built twice, in different places by different users, has the same bytes; half an hour"
	@echo "make mutants    which small changes of the source no unit test notices"
	@echo "make coverage   which code no unit test runs"
	@echo "make lint       formatting, clippy, protos and licences"
	@echo "The first build takes about a quarter of an hour on two cores: RocksDB and Cedar. It happens once."

build:
	@deploy/setup build
	@echo "== building (the first time a quarter of an hour on two cores; cargo shows the progress)"
	@$(BUILD)

demo: build
	@deploy/demo/run

test: build
	@deploy/setup test
	@deploy/test

test-long: build
	@deploy/setup test-long
	@deploy/test --long

soak: build
	@deploy/setup test-long
	@SOAK="$(or $(TIME),10m)" $(if $(SEED),SEED="$(SEED)") deploy/test --soak

fuzz: build
	@deploy/setup test-long
	@FUZZ_SECONDS="$(or $(TIME),60)" $(if $(SEED),FUZZ_SEED="$(SEED)") $(if $(TARGET),FUZZ_TARGETS="$(TARGET)") \
		$(CARGO) test --release --locked --test fuzz -- --ignored --nocapture

reproducible: build
	@deploy/setup test-long
	$(CARGO) test --release --locked --test supply -- --ignored --nocapture a_release_is_the_same

mutants:
	@deploy/setup mutants
	@deploy/mutants

coverage:
	@deploy/setup coverage
	@deploy/coverage

lint: build
	@deploy/setup lint
	@deploy/lint
