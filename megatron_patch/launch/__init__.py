"""From 25 values to a torchrun command. Runs once, on the machine where you type; knows no torch."""
