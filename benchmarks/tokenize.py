"""Tokenizing for pretraining: ours against Megatron's method, Hugging Face's batches, and the raw tokenizer library.

    python benchmarks/tokenize.py [--tokenizer FOLDER] [--work FOLDER] [--megabytes 120]

Corpus: the standard library's sources, repeated. Tokenizer: of Llama 3's size (128,256), trained once on the Python
sources that are installed, or --tokenizer. Every figure is CPU time of all processes involved, so that a busy
machine does not change it much; all of them come from one run. Each method's ids are compared with Hugging Face's.
"""

import sys

if __name__ != "__main__":
    # A neighbour in this folder, run as a script, finds this file where it wants Python's own `tokenize`: hand it over.
    import importlib.util
    import sysconfig

    _spec = importlib.util.spec_from_file_location(__name__, f"{sysconfig.get_path('stdlib')}/tokenize.py")
    sys.modules[__name__] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
else:
    _folder = __file__.rpartition("/")[0]
    sys.path = [_folder.rpartition("/")[0], *(path for path in sys.path if path != _folder)]
    from benchmarks.tokenize_methods import main

    sys.exit(main(sys.argv[1:]))
