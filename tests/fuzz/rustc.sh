#!/bin/sh
# A RUSTC_WORKSPACE_WRAPPER: compiles our own crates with LLVM's coverage counters for libFuzzer, as cargo-fuzz does, by
# flags that a stable compiler takes. Libraries stay as they are, so that they are not built a second time.
case " $* " in
  *" --crate-name "*)
    exec "$@" -Cpasses=sancov-module \
      -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares \
      -Ccodegen-units=1 ;;
  *) exec "$@" ;;
esac
