#? make run        build the kernel and boot it; the console is here
#? make test       all checks: format, clippy, docs, host tests, smoke
#? make test-long  what `make test` takes samples of, whole (hours)
#? make smoke      boot the debug and the release build on a few machines
#? make matrix     boot on every machine of scripts/matrix.toml
#? make image      target/kernel/Image and target/kernel/kernel.elf
#? make faults     every known fault in every stage: what the tester makes of each
#? make demo       the failure of 2022, silent as it was, and diagnosed
#? make torture    break every instruction of a boot; each verdict must name it (long)
#? make bisect     find the commit that broke the boot: GOOD=v0.1 BAD=HEAD
#? make debug      boot halted, for gdb
#? make bench      measure boots and page-table calls
#? make bench-accept   the instruction counts of now become the budget of `make test`
#? make fuzz       fuzz the page-table crate and the device-tree reader, SECONDS=60 each
#? make mutants    put a thousand bugs into the page-table crate, one at a time; tests must see them (an hour)
#? make doc        API documentation, under target/doc
#? make setup      find or install the tools (every target does so by itself)
#? make clean      remove target/
#?
#? Variables:
#?   CPU=cortex-a72  MEM=128M  SMP=1  EL=1|2       the machine (run, debug)
#?   APPEND='...'                                  kernel command line (run, debug)
#?   GOOD=REV  BAD=HEAD  RESUME=1                  which commits (bisect; also takes CPU, MEM, SMP, EL, APPEND)
#?   PROFILE=release|debug                         which build (image, run, debug)
#?   GRANULE=4k|16k|64k                            translation granule, as above
#?   MATRIX='--filter GLOB'                        options of bootcheck matrix (smoke, matrix)
#?   QEMU=PATH                                     another qemu-system-aarch64
#?   TOOLCHAIN=rustup|debian                       one way to get the target's core
#?   SETUP=never                                   install and fetch nothing

.DEFAULT_GOAL := help
.PHONY: help setup image run demo test test-long smoke matrix bench bench-accept fuzz mutants torture faults debug
.PHONY: bisect doc clean

# Settings reach the scripts through the environment: no shell takes APPEND apart, and a dollar in it is only
# a dollar. Some systems (openSUSE) have a CPU in every environment, which means no QEMU model.
ifneq ($(origin APPEND),undefined)
override APPEND := $(value APPEND)
export APPEND
endif
ifeq ($(origin CPU),environment)
unexport CPU
endif

help:
	@sed -n 's/^#? \{0,1\}//p' Makefile

setup:
	@scripts/setup

# Building and booting needs fewer tools than checking does.
image run demo debug smoke matrix bench bench-accept torture faults: setup-run

.PHONY: setup-run setup-all
setup-run:
	@scripts/setup --run

setup-all:
	@scripts/setup --all

image:
	@scripts/image

run: image
	@scripts/run

debug: image
	@scripts/run --debug

smoke:
	@scripts/smoke

matrix:
	@scripts/smoke matrix

bench: image
	@scripts/bench

bench-accept: image
	@scripts/bench --accept

test: setup
	@scripts/test

test-long: setup-all image
	@scripts/test-long

fuzz: setup
	@scripts/fuzz $(SECONDS)

mutants: setup
	@scripts/mutants $(ARGS)

doc: setup
	@scripts/doc

demo: image
	@scripts/demo

faults: image
	@scripts/faults

torture: image
	@scripts/torture

bisect: setup-run
	@scripts/bisect

clean:
	rm -rf target
