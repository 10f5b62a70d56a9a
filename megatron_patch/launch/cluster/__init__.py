"""Several machines: who takes part, how they meet and watch each other; Slurm and Kubernetes.

place.py          this machine's rank among the machines, as ENV=dlc or ENV=slurm finds it
rendezvous.py     before the start: can all reach each other, and are they about to do the same?
connection.py     a TCP connection that carries one JSON object a line
supervise.py      torchrun under watch, and the sentence when a machine goes
slurm.py          the batch script, its submission, and what runs in it
kubernetes.py     `--emit k8s`
"""
