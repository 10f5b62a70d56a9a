"""Several machines: who takes part, how they meet and watch each other; Slurm and Kubernetes."""
