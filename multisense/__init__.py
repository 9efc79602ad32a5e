"""Self-supervised learning over synchronized sensor logs.

SensorLog --read--> Clip --collate--> Batch --tokenize--> TokenBatch --encode--> latents --pool--> embedding

The rooms in reading order, which is the order of dependency; each imports only from those above it.
"""

ROOMS = (
    "types", "config", "logs", "sim", "inspect", "clips", "cache", "layers", "modalities", "weights", "pretrained",
    "model", "statistics", "masking", "objectives", "run", "suggest", "monitors", "checkpoint", "embed", "follow",
    "embedder", "frames", "evaluate", "view", "publish", "health", "report", "estimate", "train", "arms", "demo", "cli",
)  # fmt: skip
