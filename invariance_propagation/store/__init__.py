"""What a run keeps on disk: checkpoints, weights and the lock of its workdir."""
