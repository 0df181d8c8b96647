"""Options of Invariance Propagation; the values are ImageNet's.

A data set's config may change them. configs/default.py explains the tags.
"""

from ml_collections import ConfigDict, config_dict


def configure(config: ConfigDict) -> None:
    """Sets the options of the section `method`."""
    config.method.num_neighbors = 4  # k [paper]
    config.method.num_hops = 3  # l [paper]
    config.method.num_hard = 50  # P [paper]
    # M [paper], or 'auto', which follows N; see docs/own_data.md.
    config.method.background_size = config_dict.FieldReference(4096, object)
    config.method.temperature = 0.2  # tau: 0.2 with an MLP head, 0.07 linear [paper]
    config.method.form = "paper"  # 'paper' (sets) or 'released' (the authors' code)
    config.method.positives = "hard"  # 'hard' [paper]; 'easy' is the ablation
    # How the background is found: 'exact', or 'approx' (lax.approx_max_k) on TPU.
    config.method.selection = "exact"
    # Products with the bank: 'highest' (float32), 'high' (three bfloat16 passes on
    # TPU, TF32 on GPU), 'bfloat16'. The bank itself is float32.
    config.method.precision = "highest"
    config.method.propagation_weight = 0.6  # lambda [paper]
    # When the propagation loss starts: 'epoch': in epoch `start_epoch` [paper]; 'auto': as
    # soon as images find the same neighbours again [ours].
    config.method.start = "epoch"
    config.method.start_epoch = 30  # T, counted from 0 [paper]
    # For 'auto': the share of an image's neighbours that must be found again, beyond what
    # chance finds again [ours].
    config.method.start_overlap = 0.05
    # How lambda is switched on: 'binary', at once [paper]; 'gaussian' grows up to T (the
    # authors' code has it, but its commands do not use it).
    config.method.ramp = "binary"
    config.method.bank_momentum = 0.5  # weight of a row's old value [code]
    # What the bank starts from: 'uniform', random rows [code]; 'embeddings', the
    # untrained network's [ours].
    config.method.bank_start = "uniform"
    # Where the graph lies: 'replicated', whole on every device; 'sharded', each device has
    # its rows, for more than some hundred million images [ours]. The numbers are the same.
    config.method.graph = "replicated"
