"""Run by torchrun in every rank where this is installed as a package; in a checkout, pretrain_llama.py is."""

from megatron_patch.trainer.entry import main

if __name__ == "__main__":
    main()
