#!/bin/sh
# Train Seed-OSS with the same 25 values: `sh run_mcore_seed_oss.sh --help`. A bare MODEL_SIZE (36B) is one of this family.
exec sh "$(dirname -- "$(readlink -f -- "$0")")/../llama3_1/run_mcore_llama3_1.sh" --family seed_oss "$@"
