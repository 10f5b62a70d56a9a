#!/bin/sh
# A conversation with a run, a checkpoint, a Hugging Face folder or an adapter: sh toolkits/chat.sh MODEL [--prompt TEXT]; --help
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/python.sh" -m megatron_patch.generate.chat "$@"
