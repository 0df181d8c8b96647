"""What a run keeps on disk: checkpoints, weights, the claim to its workdir."""
