"""Ablation by retraining: one training per arm, as a queue on this machine or a cluster, and one table of them all."""
