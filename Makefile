# Thin wrappers: the build itself is CMake's.
BUILD ?= build

.PHONY: build run test lint format install clean

build:
	@scripts/setup.sh build
	@cmake -S . -B $(BUILD) -G Ninja -Wno-dev
	@cmake --build $(BUILD)

# The main job: a decode step of a real attention layer, checked, then the speed of this machine.
run: build
	$(BUILD)/flashmla decode tests/snapshots/short-batch.safetensors -o $(BUILD)/out.safetensors --check
	$(BUILD)/flashmla bench

test:
	@scripts/setup.sh test
	@tests/run.sh

lint:
	@scripts/setup.sh lint
	@scripts/lint.sh

format:
	@scripts/setup.sh lint
	@git ls-files '*.[ch]' '*.cpp' | xargs clang-format -i

install: build
	cmake --install $(BUILD)

clean:
	rm -rf $(BUILD) build-test build-asan build-tsan build-python
